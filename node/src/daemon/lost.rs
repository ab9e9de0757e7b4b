//! Parts that run beside the core task, and what becomes of the daemon when one of them ends unasked: it ends too, so that
//! whoever watches over it starts it anew. Without one of them it would look well, and no tunnel would ever work again.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use kanpachi_transport::Reader;
use tokio_util::sync::CancellationToken;

use crate::ipc::error::{ApiError, code};

/// The rest of a daemon that lost a part is given this long to take its adapter away.
const PATIENCE: Duration = Duration::from_secs(6);

/// The sentence for a part that ended.
pub(super) fn lost(part: &str) -> ApiError {
    let words = format_args!(
        "{part} ended unexpectedly, and this daemon is of no use without it; the log says why"
    );
    ApiError::failed(code::FAILED, words).hint("start it again")
}

/// Runs `life` to its end, which comes by `stop` when `part` was lost first.
pub(super) async fn watch_over(
    life: impl Future<Output = anyhow::Result<()>>,
    part: impl Future<Output = &'static str>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    tokio::pin!(life);
    let part = tokio::select! {
        biased;
        outcome = &mut life => return outcome,
        part = part => part,
    };
    if stop.is_cancelled() {
        // All parts end then.
        return life.await;
    }
    let error = lost(part);
    tracing::error!("{error}");
    stop.cancel();
    if tokio::time::timeout(PATIENCE, life).await.is_err() {
        tracing::error!("the rest of it does not end either");
    }
    Err(error.into())
}

/// The first part that ends: the packet reader or the tunnels.
pub(super) async fn first(reader: &Reader, tunnels: &CancellationToken) -> &'static str {
    tokio::select! {
        () = reader.ended() => "the thread that reads the UDP socket",
        () = tunnels.cancelled() => "the thread of the tunnels",
    }
}

/// Ends the packet reader. A panic of its thread was told when it happened, and this one has yet to tidy up.
pub(super) fn stop(reader: Reader) -> anyhow::Result<()> {
    match catch_unwind(AssertUnwindSafe(|| reader.stop())) {
        Ok(stopped) => anyhow::Context::context(stopped, "the packet path"),
        Err(_) => Err(lost("the thread that reads the UDP socket").into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

    use kanpachi_transport::{DatagramHandler, SharedSocket};

    use super::*;

    struct Clumsy;

    impl DatagramHandler for Clumsy {
        fn handle(&mut self, _: SocketAddr, _: &mut [u8]) {
            panic!("a test of panics");
        }
    }

    /// A reader that the first datagram of ours kills, and where to send it.
    fn clumsy() -> (Reader, SocketAddr) {
        let socket = SharedSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let at = (Ipv4Addr::LOCALHOST, socket.port()).into();
        (socket.spawn_reader(Clumsy).unwrap(), at)
    }

    async fn until(stop: CancellationToken) -> anyhow::Result<()> {
        stop.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn a_daemon_whose_packet_reader_panics_ends_with_an_error() {
        let (reader, at) = clumsy();
        let (stop, tunnels) = (CancellationToken::new(), CancellationToken::new());
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sender.send_to(&[1], at).unwrap();
        let watched = watch_over(until(stop.clone()), first(&reader, &tunnels), &stop);
        let ended = tokio::time::timeout(Duration::from_secs(20), watched).await;
        let error = ended.unwrap().unwrap_err().to_string();
        assert!(error.contains("UDP socket ended unexpectedly"), "{error}");
        assert!(stop.is_cancelled());
        super::stop(reader).unwrap_err();
    }

    #[tokio::test]
    async fn a_daemon_whose_tunnels_end_ends_with_an_error_and_an_orderly_end_is_none() {
        for asked in [false, true] {
            let (reader, _) = clumsy();
            let (stop, tunnels) = (CancellationToken::new(), CancellationToken::new());
            if asked {
                stop.cancel();
            }
            let ending = tunnels.clone();
            std::thread::spawn(move || {
                let _ended = ending.drop_guard();
                assert!(asked, "a test of panics");
            });
            let life = async {
                tunnels.cancelled().await;
                // The parts are told first, and the rest takes its time.
                tokio::task::yield_now().await;
                until(stop.clone()).await
            };
            let watched = watch_over(life, first(&reader, &tunnels), &stop);
            let ended = tokio::time::timeout(Duration::from_secs(20), watched).await;
            assert_eq!(ended.unwrap().is_ok(), asked);
            super::stop(reader).unwrap();
        }
    }
}
