//! What the packet path counted, under the names of the JSON contract.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Events of the packet path since the start. They only rise, and nothing is ordered by them.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl Counters {
            /// All counters by name, in a fixed order.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Packets from the adapter to a destination that no member has.
    drop_no_route,
    /// Packets from the adapter that are no whole IP packet.
    drop_malformed_out,
    /// Packets from the adapter whose source is not this node's own: every peer would drop them.
    drop_own_source,
    /// Packets for a peer without a session that found no room to wait.
    drop_waiting,
    /// Packets from the adapter that no path carries; the machine was told the size that fits.
    drop_too_big,
    /// Datagrams that the socket did not take: its buffer stayed full, or there is no route.
    drop_send,
    /// Datagrams for no session of ours.
    drop_session,
    /// Transport datagrams that do not authenticate.
    drop_forged,
    /// Transport datagrams of a session that is closed or too old.
    drop_expired,
    /// Transport datagrams that came before.
    drop_replay,
    /// Inner packets whose source is not in the sender's entry.
    drop_source,
    /// Inner packets that are not for this node.
    drop_destination,
    /// Datagrams that are no message of ours, and inner packets that are no whole IP packet.
    drop_malformed,
    /// Datagrams of a relay on no channel of ours, or from an address that is not the relay's.
    drop_relay,
    /// Payload kinds that this version does not take.
    drop_kind,
    /// Pieces of cut packets that fit no other, came too late, or whose other pieces never came.
    drop_fragment,
    /// Packets that the adapter did not take, or that came before there was one.
    drop_adapter,
    /// Handshakes without a cookie from a source that brought too many of them, and control messages of such a peer.
    drop_flood,
    /// Control messages and handshakes that the engine had no room for.
    drop_engine,
}

/// One number that many threads raise.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn one(&self) {
        self.add(1);
    }

    /// Counts several.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_reported_under_their_names() {
        let counters = Counters::default();
        counters.drop_source.one();
        counters.drop_replay.add(3);
        let seen = counters.snapshot();
        assert!(seen.contains(&("drop_source", 1)) && seen.contains(&("drop_replay", 3)));
        assert_eq!(seen.iter().map(|(_, count)| count).sum::<u64>(), 4);
    }
}
