//! A thread with one task, which sleeps until the task is woken or the moment comes that it waits for, and wakes for nothing
//! else. Tokio's timers wake a thread up to three times for one that is far away.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Instant,
};

use crate::clock;

thread_local! {
    /// What the task of this thread waits for.
    static DUE: Cell<Option<Instant>> = const { Cell::new(None) };
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a task on this thread to its end.
pub(super) fn run<F: Future>(task: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut task = pin!(task);
    loop {
        DUE.set(None);
        if let Poll::Ready(output) = task.as_mut().poll(&mut context) {
            return output;
        }
        match DUE.get() {
            Some(due) => thread::park_timeout(due.saturating_duration_since(clock::now())),
            None => thread::park(),
        }
    }
}

/// Waits for a moment of the clock, or for ever; in a task of [`run`] only. When the machine has slept, whoever tells the task
/// of that wakes it.
pub(super) async fn until(moment: Option<Instant>) {
    poll_fn(|_| match moment {
        Some(moment) if moment <= clock::now() => Poll::Ready(()),
        Some(moment) => {
            DUE.set(Some(DUE.get().map_or(moment, |due| due.min(moment))));
            Poll::Pending
        }
        None => Poll::Pending,
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_message_and_a_moment_end_the_wait_whichever_comes_first() {
        let (sender, mut receiver) = mpsc::channel(1);
        let thread = thread::spawn(move || {
            run(async move {
                let far = clock::now() + Duration::from_secs(3600);
                let said = tokio::select! {
                    said = receiver.recv() => said,
                    () = until(Some(far)) => None,
                };
                let start = clock::now();
                let soon = start + Duration::from_millis(30);
                tokio::select! {
                    _ = receiver.recv() => {}
                    () = until(Some(soon)) => {}
                }
                (said, clock::since(start))
            })
        });
        sender.blocking_send(7).unwrap();
        let (said, waited) = thread.join().unwrap();
        assert_eq!(said, Some(7));
        assert!(waited >= Duration::from_millis(30), "{waited:?}");
        drop(sender);
    }
}
