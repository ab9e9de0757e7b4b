//! Signs of life for the service manager, and only while the core task answers: a process whose middle hangs is to be
//! ended and started anew, however well its other threads are.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{NATIVE, core::Request};
use crate::platform::{Platform as _, ServiceState};

/// Starts to tell the service manager, if it wants to be told.
pub(super) fn start(requests: mpsc::Sender<Request>, stop: CancellationToken) {
    let Some(limit) = NATIVE.watchdog() else {
        return;
    };
    tokio::spawn(run(limit, requests, stop, || {
        if let Err(error) = NATIVE.notify_service(ServiceState::Alive) {
            tracing::debug!(%error, "the service manager cannot be told");
        }
    }));
}

/// Asks at half the limit, and takes an answer within another half: so a busy core is never late.
async fn run(
    limit: Duration,
    requests: mpsc::Sender<Request>,
    stop: CancellationToken,
    alive: impl Fn(),
) {
    let half = limit / 2;
    let mut tick = tokio::time::interval(half);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        match tokio::time::timeout(half, answers(&requests)).await {
            Ok(true) => alive(),
            // It has ended, and so will the process.
            Ok(false) => return,
            Err(_) => tracing::warn!(?half, "the core task does not answer"),
        }
    }
}

async fn answers(requests: &mpsc::Sender<Request>) -> bool {
    let (sender, receiver) = oneshot::channel();
    requests.send(Request::Alive(sender)).await.is_ok() && receiver.await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(40);

    /// A watchdog, what it asks, and the signs of life that it gives.
    fn watched() -> (
        mpsc::Receiver<Request>,
        mpsc::Receiver<()>,
        CancellationToken,
    ) {
        let (requests, asked) = mpsc::channel(1);
        let (signs, seen) = mpsc::channel(16);
        let stop = CancellationToken::new();
        tokio::spawn(run(LIMIT, requests, stop.clone(), move || {
            let _ = signs.try_send(());
        }));
        (asked, seen, stop)
    }

    #[tokio::test]
    async fn signs_of_life_are_given_while_the_core_answers_and_end_with_it() {
        let (mut asked, mut seen, _stop) = watched();
        for _ in 0..3 {
            let Some(Request::Alive(reply)) = asked.recv().await else {
                panic!("something else was asked");
            };
            reply.send(()).unwrap();
            seen.recv().await.unwrap();
        }
        drop(asked);
        assert_eq!(seen.recv().await, None);
    }

    #[tokio::test]
    async fn a_core_that_does_not_answer_is_not_called_alive() {
        let (mut asked, mut seen, stop) = watched();
        let mut unanswered = Vec::new();
        for _ in 0..3 {
            unanswered.push(asked.recv().await.unwrap());
        }
        assert!(seen.try_recv().is_err());
        stop.cancel();
        assert_eq!(seen.recv().await, None);
    }
}
