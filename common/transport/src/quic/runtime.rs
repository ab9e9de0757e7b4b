//! Tokio as quinn sees it, with timers of our own.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};

use crate::alarm::{Alarm, Alarms, next_beat};

/// What is due no sooner than this may come later: keepalives and the ends of connections that are dead. Everything else
/// of QUIC is about round trips.
const FAR: Duration = Duration::from_secs(10);
/// It then comes at the next multiple of this by the wall clock, when the tunnels' keepalives are due as well: so a node wakes
/// once for all of its connections and for those that its peers made.
const BEAT: Duration = Duration::from_secs(25);
/// Where that is further away, half way between two: the next time it is not.
const AT_MOST: Duration = Duration::from_millis(13_500);

/// See the module.
#[derive(Debug)]
pub(super) struct QuicRuntime {
    alarms: Arc<Alarms>,
}

impl QuicRuntime {
    pub(super) fn new() -> io::Result<Self> {
        let alarms = Alarms::here()?;
        Ok(Self { alarms })
    }
}

impl Runtime for QuicRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Timer(self.alarms.at(together(at))))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }
}

fn together(at: Instant) -> Instant {
    if at.saturating_duration_since(Instant::now()) < FAR {
        return at;
    }
    let beat = next_beat(at, BEAT);
    if beat <= at + AT_MOST {
        beat
    } else {
        next_beat(at, BEAT / 2)
    }
}

#[derive(Debug)]
struct Timer(Alarm);

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.0.reset(together(at));
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::KEEP_ALIVE;
    use super::*;

    #[test]
    fn keepalives_come_to_the_beat_and_no_nat_waits_for_thirty_seconds() {
        let start = next_beat(Instant::now() + Duration::from_secs(60), BEAT);
        for tenths in 0..250 {
            // The last packet, and then nothing but keepalives and what answers them.
            let mut last = start + Duration::from_millis(tenths * 100 + 20);
            for round in 0..4 {
                let next = together(last + KEEP_ALIVE);
                let gap = next - last;
                assert!(gap < Duration::from_secs(27), "{gap:?} after {tenths}");
                if round > 1 {
                    assert!(gap > Duration::from_secs(24), "{gap:?} after {tenths}");
                    let since = (next - start).as_millis() % BEAT.as_millis();
                    assert!(since.min(25_000 - since) < 20, "{since} ms off the beat");
                }
                last = next + Duration::from_millis(20);
            }
        }
    }

    #[test]
    fn what_is_about_round_trips_is_not_put_off() {
        let soon = Instant::now() + Duration::from_secs(9);
        assert_eq!(together(soon), soon);
    }
}
