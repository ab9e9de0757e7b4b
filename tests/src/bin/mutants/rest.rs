//! Faults in what a node at rest does, and in what it says of its paths meanwhile.

use crate::fault::{Fault, Finder, lab, lib};

const NAPS: Finder = lib(
    "node/proto",
    "tunnel::tests::rest::naps_at_the_ends_are_not_taken_for_the_path",
);

const PACKET_PATH: Finder = Finder {
    package: "node",
    program: "packet_path",
    test: "keepalives_wait_for_each_other_and_say_for_how_long_and_data_waits_for_nobody",
};

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "each node rests at a beat of its own",
        edits: &[(
            "node/src/clock.rs",
            "kanpachi_transport::alarm::next_beat(Instant::now(), every);",
            "kanpachi_transport::alarm::next_beat(
        Instant::now(),
        every - Duration::from_millis(if FAULT { u64::from(std::process::id() % 997) } else { 0 }),
    );",
        )],
        finders: &[lab(
            "idle_show9",
            "a_node_at_rest_among_twenty_peers_hardly_wakes_up",
        )],
    },
    Fault {
        name: "the reader wakes up for each keepalive",
        edits: &[(
            "common/transport/src/linger.rs",
            "if naps == NAPS {",
            "if FAULT || naps == NAPS {",
        )],
        finders: &[
            lib(
                "common/transport",
                "linger::tests::who_is_at_rest_sleeps_until_nothing_came_meanwhile",
            ),
            Finder {
                package: "common/transport",
                program: "loopback",
                test: "socket::a_handler_at_rest_is_not_woken_for_each_datagram_and_told_how_late_it_is",
            },
        ],
    },
    Fault {
        name: "a nap is taken for the path",
        edits: &[(
            "node/proto/src/path/estimator.rs",
            "old.clamp(took.saturating_sub(idle), took)",
            "old.clamp(took.saturating_sub(if FAULT { Duration::ZERO } else { idle }), took)",
        )],
        finders: &[NAPS],
    },
    Fault {
        name: "an answer does not say that it is late",
        edits: &[(
            "node/proto/src/tunnel/rest.rs",
            "(receipt.from, receipt.held_ms());",
            "(receipt.from, if FAULT { 0 } else { receipt.held_ms() });",
        )],
        finders: &[NAPS],
    },
    Fault {
        name: "a peer that says it was late is always believed",
        edits: &[(
            "node/proto/src/tunnel/peer/live.rs",
            ".min(HELD_AT_MOST)",
            ".min(if FAULT { Duration::MAX } else { HELD_AT_MOST })",
        )],
        finders: &[NAPS],
    },
    Fault {
        name: "data waits for keepalives",
        edits: &[(
            "node/src/dataplane/inbound.rs",
            "        self.crowd.urgent(now_ms);
        self.shared.queues.woken",
            "        if !FAULT { self.crowd.urgent(now_ms); }
        self.shared.queues.woken",
        )],
        finders: &[PACKET_PATH],
    },
    Fault {
        name: "the reader does not say how late it is",
        edits: &[(
            "node/src/dataplane/inbound.rs",
            "held: self.held,",
            "held: if FAULT { Duration::ZERO } else { self.held },",
        )],
        finders: &[PACKET_PATH],
    },
    Fault {
        name: "a record that is not new goes to all at once",
        edits: &[(
            "node/proto/src/records/publish.rs",
            "let gently = self.unchanged > 0 && held",
            "let gently = !FAULT && self.unchanged > 0 && held",
        )],
        finders: &[lib(
            "node/proto",
            "records::tests::gently::what_is_not_new_goes_out_gently_and_what_is_new_does_not",
        )],
    },
    Fault {
        name: "a round that overlaps another leaves servers out",
        edits: &[(
            "node/src/daemon/swarm/trickle.rs",
            ".min_by_key(|(peer, (oldest, _))| (*oldest, *peer));",
            ".min_by_key(|(peer, (oldest, _))| (oldest.filter(|_| !FAULT), *peer));",
        )],
        finders: &[lib(
            "node",
            "daemon::swarm::trickle::tests::all_have_the_newest_once_and_rounds_that_overlap_leave_nobody_out",
        )],
    },
    Fault {
        name: "sightings on the LAN hide each other",
        edits: &[(
            "node/src/daemon/swarm/backlog.rs",
            "(places.count() + 1 >= MAX_OF_ONE).then_some(oldest)",
            "(!FAULT && places.count() + 1 >= MAX_OF_ONE).then_some(oldest)",
        )],
        finders: &[lib(
            "node",
            "daemon::swarm::backlog::tests::who_floods_with_sightings_of_one_member_does_not_hide_another",
        )],
    },
];
