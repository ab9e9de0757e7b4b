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
        name: "a connection does not know that its last stream is gone",
        edits: &[(
            "common/transport/src/used.rs",
            "task.wake();",
            "if !FAULT {\n                task.wake();\n            }",
        )],
        finders: &[Finder {
            package: "common/transport",
            program: "loopback",
            test: "streams::a_connection_ends_when_its_last_stream_has_and_nothing_else_happens_on_it",
        }],
    },
    Fault {
        name: "a connection is not looked at when it is young no more",
        edits: &[(
            "common/transport/src/used.rs",
            "Delay::new(YOUNG)",
            "Delay::new(YOUNG * if FAULT { 100 } else { 1 })",
        )],
        finders: &[Finder {
            package: "common/transport",
            program: "loopback",
            test: "streams::a_connection_ends_when_its_last_stream_has_and_nothing_else_happens_on_it",
        }],
    },
    Fault {
        name: "nodes that started together all ask at one moment",
        edits: &[(
            "node/proto/src/spread/mod.rs",
            "now + REFRESH - self.early",
            "now + REFRESH - self.early * u32::from(!FAULT)",
        )],
        finders: &[lib(
            "node/proto",
            "spread::tests::nodes_that_started_together_do_not_all_ask_at_one_moment",
        )],
    },
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
            "known.clamp(took.saturating_sub(idle), took)",
            "known.clamp(took.saturating_sub(if FAULT { Duration::ZERO } else { idle }), took)",
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
        name: "who does not answer is dialled there once more",
        edits: &[(
            "node/src/daemon/swarm/calls.rs",
            ".any(|known| quic_socket_addr(known) != Some(at))",
            ".any(|known| FAULT || quic_socket_addr(known) != Some(at))",
        )],
        finders: &[lib(
            "node",
            "daemon::swarm::calls::tests::who_does_not_answer_is_dialled_again_only_if_it_may_be_elsewhere",
        )],
    },
    Fault {
        name: "a timer of libp2p is not set anew",
        edits: &[(
            "common/timers/src/lib.rs",
            "(Some(Timer::Alarm(alarm)), Some(at)) => alarm.reset(at),",
            "(Some(Timer::Alarm(alarm)), Some(at)) => if !FAULT { alarm.reset(at) },",
        )],
        finders: &[lib(
            "common/timers",
            "tests::a_delay_that_is_set_anew_while_it_is_waited_for_comes_then",
        )],
    },
    Fault {
        name: "what a timer of libp2p waits for is forgotten by the kernel's",
        edits: &[(
            "common/timers/src/alarm.rs",
            "            self.arm(&mut due);
        }
        ready",
            "            if !FAULT { self.arm(&mut due); }
        }
        ready",
        )],
        finders: &[lib(
            "common/timers",
            "alarm::tests::whoever_does_not_look_keeps_nobody_waiting",
        )],
    },
    Fault {
        name: "pings on each connection",
        edits: &[(
            "common/transport/src/pings.rs",
            "has(|part| matches!(part, Protocol::Tcp(_)))",
            "(FAULT || has(|part| matches!(part, Protocol::Tcp(_))))",
        )],
        finders: &[lib(
            "common/transport",
            "pings::tests::tcp_is_what_a_nat_has_to_keep",
        )],
    },
    Fault {
        name: "a round that overlaps another leaves servers out",
        edits: &[(
            "node/src/daemon/swarm/trickle.rs",
            "Some((round.lacks(&server)?, lot(key, &server), server))",
            "Some((round.lacks(&server)?.filter(|_| !FAULT), lot(key, &server), server))",
        )],
        finders: &[lib(
            "node",
            "daemon::swarm::trickle::tests::all_have_the_newest_once_and_rounds_that_overlap_leave_nobody_out",
        )],
    },
    Fault {
        name: "all nodes give their records to the same server",
        edits: &[(
            "node/src/daemon/swarm/trickle.rs",
            "let (_, _, server) = turns.min()?;",
            "let turns = turns.map(|(at, lot, server)| (at, if FAULT { 0 } else { lot }, server));
        let (_, _, server) = turns.min()?;",
        )],
        finders: &[lib(
            "node",
            "daemon::swarm::trickle::tests::nodes_that_do_everything_at_one_moment_do_not_all_turn_to_the_same_server",
        )],
    },
    Fault {
        name: "an offer that ends late says something of the next one",
        edits: &[(
            "node/src/daemon/swarm/trickle.rs",
            "if known.offered != offer.number {",
            "if !FAULT && known.offered != offer.number {",
        )],
        finders: &[lib(
            "node",
            "daemon::swarm::trickle::tests::a_round_that_ends_late_says_nothing_of_the_next",
        )],
    },
    Fault {
        name: "who comes while it is being offered a record is forgotten",
        edits: &[(
            "node/src/daemon/swarm/trickle.rs",
            "known.came |= busy;",
            "known.came |= !FAULT && busy;",
        )],
        finders: &[lib(
            "node",
            "daemon::swarm::trickle::tests::who_is_there_is_given_what_it_misses_once",
        )],
    },
    Fault {
        name: "servers that a walk found are offered a record twice",
        edits: &[(
            "node/src/daemon/swarm/trickle.rs",
            "servers.retain(|server| round.lacks(server).is_some());",
            "servers.retain(|server| FAULT || round.lacks(server).is_some());",
        )],
        finders: &[lib(
            "node",
            "daemon::swarm::trickle::tests::servers_that_a_walk_found_are_offered_it_once",
        )],
    },
    Fault {
        name: "who joins while it is connected comes into no table",
        edits: &[(
            "bootstrap/src/server.rs",
            "if let Some(addresses) = self.applicants.remove(peer) {",
            "if let Some(addresses) = self.applicants.remove(peer).filter(|_| !FAULT) {",
        )],
        finders: &[Finder {
            package: "bootstrap",
            program: "serve",
            test: "who_becomes_a_member_while_connected_is_found_at_once",
        }],
    },
    Fault {
        name: "each server that is met sets off a round",
        edits: &[(
            "node/proto/src/records/publish.rs",
            "if !self.taken && self.pending.is_empty() {",
            "if FAULT || !self.taken && self.pending.is_empty() {",
        )],
        finders: &[lib(
            "node/proto",
            "records::tests::servers_that_come_and_go_are_given_what_they_miss_and_set_off_no_round",
        )],
    },
    Fault {
        name: "sightings on the LAN hide each other",
        edits: &[(
            "node/src/daemon/swarm/backlog.rs",
            "(another && places.count() >= MAX_OF_ONE).then_some(oldest)",
            "(!FAULT && another && places.count() >= MAX_OF_ONE).then_some(oldest)",
        )],
        finders: &[lib(
            "node",
            "daemon::swarm::backlog::tests::who_floods_with_sightings_of_one_member_does_not_hide_another",
        )],
    },
];
