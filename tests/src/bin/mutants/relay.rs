//! Faults in the relay of data.

use crate::fault::{Fault, Finder, lab, lib};

const fn members(test: &'static str) -> Finder {
    lib("bootstrap", test)
}

const FLOODED_SHARE: Finder = lab(
    "relay_show5",
    "one_who_floods_leaves_another_half_of_its_share_and_quic_alive",
);
const FLOODED_LINE: Finder = lab(
    "relay_show5",
    "one_who_floods_a_narrow_line_gets_no_more_of_it_than_its_rate",
);

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "packets wait for other programs",
        edits: &[(
            "common/transport/src/priority.rs",
            "setpriority_process(None, nice)",
            "setpriority_process(None, if FAULT { 0 } else { nice })",
        )],
        finders: &[lab(
            "relay_show5",
            "a_relayed_path_has_a_third_of_a_direct_ones_rate_and_answers_under_load",
        )],
    },
    Fault {
        name: "who waits on a stream is not told that its connection was closed",
        edits: &[(
            "common/transport/src/yamux.rs",
            "        self.streams.wake();\n        closed",
            "        if !FAULT {\n            self.streams.wake();\n        }\n        closed",
        )],
        finders: &[Finder {
            package: "common/transport",
            program: "loopback",
            test: "streams::a_stream_ends_when_its_connection_is_closed_at_either_end",
        }],
    },
    Fault {
        name: "who connects while it starts finds no relay",
        edits: &[(
            "bootstrap/src/relay/service.rs",
            "        let incoming = control.accept(StreamProtocol::new(PROTOCOL));\n        async move {",
            "        let mut later = control.clone();\n        let incoming = (!FAULT).then(|| control.accept(StreamProtocol::new(PROTOCOL)));\n        async move {\n            let incoming = incoming.unwrap_or_else(|| later.accept(StreamProtocol::new(PROTOCOL)));",
        )],
        finders: &[Finder {
            package: "bootstrap",
            program: "serve",
            test: "who_connects_while_it_starts_finds_all_that_it_serves",
        }],
    },
    Fault {
        name: "a relay that took a stream is not tried again soon",
        edits: &[(
            "node/src/daemon/relay_io.rs",
            "if lived || taken && self.good",
            "if lived || !FAULT && taken && self.good",
        )],
        finders: &[lib(
            "node",
            "daemon::relay_io::tests::a_relay_that_took_a_stream_is_tried_again_soon_and_not_for_ever",
        )],
    },
    Fault {
        name: "a relay that does not answer is waited for",
        edits: &[(
            "node/proto/src/relay/mod.rs",
            "if relay.owes_since().is_some_and(|at| now >= at) {",
            "if relay.owes_since().is_some_and(|at| now >= at && !FAULT) {",
        )],
        finders: &[
            lib(
                "node/proto",
                "relay::tests::a_relay_that_does_not_answer_on_its_stream_has_another_one",
            ),
            lib(
                "node/proto",
                "relay::tests::a_stream_that_carries_all_is_asked_when_nothing_comes_through",
            ),
        ],
    },
    Fault {
        name: "a handshake that is not answered is told nobody",
        edits: &[(
            "node/proto/src/tunnel/peer/mod.rs",
            "is_some_and(Round::went_over_relays)",
            "is_some_and(|round| !FAULT && round.went_over_relays())",
        )],
        finders: &[lib(
            "node/proto",
            "tunnel::tests::paths::a_handshake_over_a_relay_that_is_not_answered_is_told",
        )],
    },
    Fault {
        name: "members that relays lead to share one allowance",
        edits: &[(
            "node/proto/src/tunnel/admission.rs",
            "pair % OF_ONE_RELAY,",
            "pair % if FAULT { 1 } else { OF_ONE_RELAY },",
        )],
        finders: &[lib(
            "node/proto",
            "tunnel::admission::tests::members_that_are_reached_over_one_relay_count_as_a_few",
        )],
    },
    Fault {
        name: "what comes before the word that a channel is open is dropped",
        edits: &[(
            "node/proto/src/relay/mod.rs",
            "channels: pairs(relay).map(",
            "channels: pairs(relay).filter(|(_, state, _)| !FAULT || *state == PairState::Open).map(",
        )],
        finders: &[lib(
            "node/proto",
            "relay::tests::a_way_is_open_once_both_ends_have_paired_and_goes_by_stream_until_udp_is_bound",
        )],
    },
    Fault {
        name: "a slow relay has no more time than others",
        edits: &[(
            "node/proto/src/relay/mod.rs",
            "relay.patience = (relay.patience * 2).min(ANSWER.1);",
            "relay.patience = if FAULT { ANSWER.0 } else { (relay.patience * 2).min(ANSWER.1) };",
        )],
        finders: &[lib(
            "node/proto",
            "relay::tests::a_slow_relay_has_more_time",
        )],
    },
    Fault {
        name: "who calls before it is known is forgotten",
        edits: &[(
            "node/proto/src/relay/mod.rs",
            "relay.early.insert(peer);",
            "if !FAULT {\n                relay.early.insert(peer);\n            }",
        )],
        finders: &[lib(
            "node/proto",
            "relay::tests::only_who_may_be_talked_to_gets_a_channel",
        )],
    },
    Fault {
        name: "an answer that comes after the next bind is refused",
        edits: &[(
            "node/proto/src/relay/binding.rs",
            "Some(bind.nonce) == self.nonce_before",
            "!FAULT && Some(bind.nonce) == self.nonce_before",
        )],
        finders: &[lib(
            "node/proto",
            "relay::tests::an_answer_may_come_after_the_next_bind",
        )],
    },
    Fault {
        name: "what a relay heard last is not told again",
        edits: &[(
            "node/proto/src/relay/binding.rs",
            "self.next = now + AGAIN[0];",
            "if !FAULT {\n                        self.next = now + AGAIN[0];\n                    }",
        )],
        finders: &[lib(
            "node/proto",
            "relay::tests::of_several_addresses_the_relay_keeps_the_one_that_is_used",
        )],
    },
    Fault {
        name: "a working relay is not left for a nearer one",
        edits: &[(
            "node/proto/src/path/address.rs",
            "self.score() < (relayed,",
            "!(FAULT && relayed && self.kind == PathKind::Relay) && self.score() < (relayed,",
        )],
        finders: &[
            lib(
                "node/proto",
                "path::set::tests::data_leaves_a_relay_for_one_that_is_clearly_nearer_and_for_no_other",
            ),
            lab(
                "relay_show7",
                "data_leaves_the_nearest_relay_when_another_has_become_nearer",
            ),
        ],
    },
    Fault {
        name: "an old proof outweighs the newest roster",
        edits: &[(
            "bootstrap/src/relay/judge.rs",
            "Some(head) => shown > head.position(),",
            "Some(head) => FAULT || shown > head.position(),",
        )],
        finders: &[
            members(
                "relay::tests::members::an_evicted_member_with_an_old_proof_is_refused_with_the_head_that_lacks_it",
            ),
            members(
                "relay::tests::members::a_proof_counts_until_the_relay_hears_of_something_newer",
            ),
            lab(
                "relay_show8",
                "strangers_and_the_evicted_get_no_bytes_and_nobody_is_aimed_at",
            ),
        ],
    },
    Fault {
        name: "a proof of replaced keys counts",
        edits: &[(
            "bootstrap/src/relay/judge.rs",
            "shown.generation >= generation",
            "(FAULT || shown.generation >= generation)",
        )],
        finders: &[members(
            "relay::tests::members::a_proof_of_keys_that_were_replaced_counts_no_more",
        )],
    },
    Fault {
        name: "an expired proof counts",
        edits: &[(
            "bootstrap/src/relay/judge.rs",
            ".filter(|head| head.freshness(now) != Freshness::Expired)",
            ".filter(|head| FAULT || head.freshness(now) != Freshness::Expired)",
        )],
        finders: &[members("relay::tests::members::an_expired_proof_is_none")],
    },
    Fault {
        name: "who is no member has a session",
        edits: &[(
            "bootstrap/src/relay/core.rs",
            "        if standing.networks.is_empty() {
            return Err(not_a_member(standing.gone));",
            "        if standing.networks.is_empty() && !FAULT {
            return Err(not_a_member(standing.gone));",
        )],
        finders: &[members(
            "relay::tests::members::a_stranger_gets_no_session_and_an_empty_mirror_admits_nobody_without_a_proof",
        )],
    },
    Fault {
        name: "the evicted keep their session",
        edits: &[(
            "bootstrap/src/relay/core.rs",
            "        if standing.networks.is_empty() {
            self.expel",
            "        if standing.networks.is_empty() && !FAULT {
            self.expel",
        )],
        finders: &[
            members(
                "relay::tests::members::an_eviction_ends_session_channels_and_forwarding_at_once",
            ),
            lab(
                "relay_show8",
                "strangers_and_the_evicted_get_no_bytes_and_nobody_is_aimed_at",
            ),
        ],
    },
    Fault {
        name: "strangers to each other are paired",
        edits: &[(
            "bootstrap/src/relay/core.rs",
            "if a.networks.is_disjoint(&b.networks) {",
            "if a.networks.is_disjoint(&b.networks) && !FAULT {",
        )],
        finders: &[
            members(
                "relay::tests::members::only_members_of_one_network_are_paired_and_only_for_as_long",
            ),
            members("relay::tests::packets::both_ends_agree"),
        ],
    },
    Fault {
        name: "a session never ends by itself",
        edits: &[(
            "bootstrap/src/relay/core.rs",
            "member.session.expires_at() <= now.nanos;",
            "member.session.expires_at() <= now.nanos && !FAULT;",
        )],
        finders: &[members(
            "relay::tests::members::a_session_ends_when_nobody_renews_it_and_not_with_its_stream",
        )],
    },
    Fault {
        name: "two sessions of one node",
        edits: &[(
            "bootstrap/src/relay/core.rs",
            "        self.expel(&node, refused(Reason::Replaced), now);",
            "        if !FAULT { self.expel(&node, refused(Reason::Replaced), now); }",
        )],
        finders: &[members(
            "relay::tests::members::a_new_stream_of_the_same_node_takes_the_place_of_the_old_one",
        )],
    },
    Fault {
        name: "sessions without end",
        edits: &[(
            "bootstrap/src/relay/core.rs",
            "self.members.len() >= self.max_sessions {",
            "self.members.len() >= self.max_sessions && !FAULT {",
        )],
        finders: &[members(
            "relay::tests::members::there_are_so_many_sessions_and_no_more",
        )],
    },
    Fault {
        name: "notices without end",
        edits: &[(
            "bootstrap/src/relay/core.rs",
            "if !known && self.wanted.take(1, WANTED, now.nanos) {",
            "if !known && (FAULT || self.wanted.take(1, WANTED, now.nanos)) {",
        )],
        finders: &[members(
            "relay::tests::members::notices_of_one_who_opens_and_closes_all_day_are_bounded",
        )],
    },
    Fault {
        name: "messages out of place pass",
        edits: &[(
            "bootstrap/src/relay/core.rs",
            "            _ => self.malformed(id),",
            "            _ => if !FAULT { self.malformed(id) },",
        )],
        finders: &[members(
            "relay::tests::members::a_message_out_of_place_ends_the_stream_and_keeps_nothing",
        )],
    },
    Fault {
        name: "a bind without a right mac is answered",
        edits: &[(
            "bootstrap/src/relay/packet.rs",
            "if !is_authentic(datagram, &session.key)",
            "if !(FAULT || is_authentic(datagram, &session.key))",
        )],
        finders: &[lab(
            "relay_show8",
            "strangers_and_the_evicted_get_no_bytes_and_nobody_is_aimed_at",
        )],
    },
    Fault {
        name: "binds without end",
        edits: &[(
            "bootstrap/src/relay/packet.rs",
            "!session.may_bind(now)",
            "!(session.may_bind(now) || FAULT)",
        )],
        finders: &[lab(
            "relay_show8",
            "strangers_and_the_evicted_get_no_bytes_and_nobody_is_aimed_at",
        )],
    },
    Fault {
        name: "bound without a cookie",
        edits: &[(
            "bootstrap/src/relay/packet.rs",
            "} else if right(&current) || right(&before) {",
            "} else if FAULT || right(&current) || right(&before) {",
        )],
        finders: &[
            members(
                "relay::tests::packets::a_bind_that_was_overheard_takes_no_member_back_to_where_it_was",
            ),
            members("relay::tests::packets::a_cookie_is_good_for_a_minute_or_two"),
        ],
    },
    Fault {
        name: "an overheard cookie is good again",
        edits: &[(
            "bootstrap/src/relay/packet.rs",
            "let mark = session.generation() << 32",
            "let mark = (if FAULT { 0 } else { session.generation() }) << 32",
        )],
        finders: &[members(
            "relay::tests::packets::a_bind_that_was_overheard_takes_no_member_back_to_where_it_was",
        )],
    },
    Fault {
        name: "data from anywhere",
        edits: &[(
            "bootstrap/src/relay/packet.rs",
            "session.bound() != Some(from)",
            "(session.bound() != Some(from) && !FAULT)",
        )],
        finders: &[
            members(
                "relay::tests::packets::a_datagram_is_answered_with_no_more_bytes_and_to_its_source_only",
            ),
            lab(
                "relay_show8",
                "strangers_and_the_evicted_get_no_bytes_and_nobody_is_aimed_at",
            ),
        ],
    },
    Fault {
        name: "no rate of a member",
        edits: &[(
            "bootstrap/src/relay/forward.rs",
            "from.allowance.take(len, shared.pace.member(), now)",
            "(FAULT || from.allowance.take(len, shared.pace.member(), now))",
        )],
        finders: &[members(
            "relay::tests::packets::a_member_sends_no_more_than_its_rate_whatever_it_opens",
        )],
    },
    Fault {
        name: "no rate at all",
        edits: &[
            (
                "bootstrap/src/relay/forward.rs",
                "from.allowance.take(len, shared.pace.member(), now)",
                "(FAULT || from.allowance.take(len, shared.pace.member(), now))",
            ),
            (
                "bootstrap/src/relay/forward.rs",
                "lane.allowance.take(len, shared.pace.pair(), now)",
                "(FAULT || lane.allowance.take(len, shared.pace.pair(), now))",
            ),
        ],
        finders: &[FLOODED_LINE],
    },
    Fault {
        name: "a flood takes all",
        edits: &[(
            "bootstrap/src/relay/pace.rs",
            "let next = if self.idle == 0",
            "let next = if !FAULT && self.idle == 0",
        )],
        finders: &[
            members(
                "relay::tests::packets::one_who_floods_leaves_another_what_it_sends_below_its_share",
            ),
            FLOODED_SHARE,
        ],
    },
    Fault {
        name: "one rate for all members together",
        edits: &[(
            "bootstrap/src/relay/forward.rs",
            "let len = datagram.len() as u64;",
            "let len = datagram.len() as u64;
        static ALL: std::sync::LazyLock<super::bucket::Bucket> = std::sync::LazyLock::new(Default::default);
        if FAULT && !ALL.take(len, shared.pace.member(), now) {
            return count(&counters.drop_rate, 1);
        }",
        )],
        finders: &[FLOODED_SHARE, FLOODED_LINE],
    },
    Fault {
        name: "QUIC waits in line with the data",
        edits: &[(
            "common/transport/src/demux.rs",
            "                ours = true;
                handler.handle(from, datagram);",
            "                ours = true;
                if FAULT {
                    socket.queue().push(meta.addr, meta.dst_ip, meta.ecn, datagram);
                    socket.queue().wake();
                }
                handler.handle(from, datagram);",
        )],
        finders: &[FLOODED_SHARE],
    },
    Fault {
        name: "a longer datagram joins the batch",
        edits: &[(
            "bootstrap/src/relay/forward.rs",
            "&& len <= self.segment",
            "&& (FAULT || len <= self.segment)",
        )],
        finders: &[members(
            "relay::tests::packets::batches_come_apart_into_what_went_in",
        )],
    },
    Fault {
        name: "a stream's queue without end",
        edits: &[(
            "bootstrap/src/relay/outbox.rs",
            "inner.bytes + len > MAX_BYTES",
            "(inner.bytes + len > MAX_BYTES && !FAULT)",
        )],
        finders: &[members(
            "relay::outbox::tests::what_waits_is_bounded_in_bytes_and_time",
        )],
    },
    Fault {
        name: "stale datagrams are sent",
        edits: &[(
            "bootstrap/src/relay/outbox.rs",
            "now.saturating_sub(queued.at) > MAX_AGE)",
            "now.saturating_sub(queued.at) > MAX_AGE && !FAULT)",
        )],
        finders: &[
            members("relay::outbox::tests::what_waits_is_bounded_in_bytes_and_time"),
            members(
                "relay::tests::packets::data_goes_to_the_stream_of_a_member_that_udp_does_not_reach",
            ),
        ],
    },
    Fault {
        name: "a batch is forgotten",
        edits: &[(
            "bootstrap/src/relay/forward.rs",
            "if self.open == self.max_batches {",
            "if FAULT { self.open = 0; }
        if self.open == self.max_batches {",
        )],
        finders: &[members(
            "relay::tests::packets::batches_come_apart_into_what_went_in",
        )],
    },
    Fault {
        name: "nothing is relayed",
        edits: &[(
            "bootstrap/src/relay/forward.rs",
            ".filter(|lane| lane.to.is_open(now))",
            ".filter(|lane| !FAULT && lane.to.is_open(now))",
        )],
        finders: &[
            members(
                "relay::tests::packets::what_a_member_sends_arrives_at_its_partner_under_the_partners_numbers",
            ),
            lab(
                "relay_show5",
                "a_relayed_path_has_a_third_of_a_direct_ones_rate_and_answers_under_load",
            ),
            lab(
                "relay_member",
                "a_member_relays_for_two_others_until_one_of_them_is_evicted",
            ),
        ],
    },
];
