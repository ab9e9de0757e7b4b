//! Faults of discovery: what is found out of networks and told of it, and ports that routers forward (tests/netcheck,
//! tests/portmap).

use crate::fault::{Fault, lab, lib};

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "one reflector is believed to know the mapping",
        edits: &[(
            "node/proto/src/netcheck/check.rs",
            "if untranslated || pairs(false).next().is_some() {",
            "if FAULT || untranslated || pairs(false).next().is_some() {",
        )],
        finders: &[lib(
            "node/proto",
            "netcheck::tests::one_address_tells_what_it_can_and_no_more",
        )],
    },
    Fault {
        name: "a filter by address is called none",
        edits: &[(
            "node/proto/src/netcheck/check.rs",
            "if self.from_other_address {",
            "if self.from_other_address || FAULT && self.from_other_port {",
        )],
        finders: &[lab(
            "netcheck",
            "every_kind_of_network_is_told_for_what_it_is",
        )],
    },
    Fault {
        name: "the NATs of peers are forgotten",
        edits: &[(
            "node/src/daemon/core/events.rs",
            "book.set_nat(online.node, online.nat);",
            "if !FAULT { book.set_nat(online.node, online.nat); }",
        )],
        finders: &[lab(
            "netcheck",
            "a_daemon_knows_its_own_network_and_those_of_its_peers",
        )],
    },
    Fault {
        name: "an address is announced for ever",
        edits: &[(
            "node/src/daemon/core/netcheck.rs",
            "now.saturating_duration_since(seen.at) < CONFIRMED_FOR;",
            "FAULT || now.saturating_duration_since(seen.at) < CONFIRMED_FOR;",
        )],
        finders: &[lib(
            "node",
            "daemon::core::netcheck::tests::an_address_that_no_reflector_confirms_any_more_is_forgotten",
        )],
    },
    Fault {
        name: "a router's private address is believed",
        edits: &[(
            "node/proto/src/portmap/mapper.rs",
            "let usable = is_public(*external.ip())",
            "let usable = (FAULT || is_public(*external.ip()))",
        )],
        finders: &[lib(
            "node/proto",
            "portmap::tests::an_address_that_leads_nowhere_is_not_believed",
        )],
    },
    Fault {
        name: "a forwarded port is told nobody",
        edits: &[(
            "node/src/daemon/core/candidates.rs",
            "let mapped = self.mapped().map(",
            "let mapped = self.mapped().filter(|_| !FAULT).map(",
        )],
        finders: &[lab("portmap", "a_node_is_reached_by_a_mapping_of_nat_pmp")],
    },
    Fault {
        name: "a forwarded port is never given back",
        edits: &[(
            "node/src/portmap/mod.rs",
            "mapper.release();",
            "if !FAULT { mapper.release(); }",
        )],
        finders: &[lab("portmap", "a_node_is_reached_by_a_mapping_of_pcp")],
    },
    Fault {
        name: "the invite lacks the forwarded address",
        edits: &[(
            "node/src/host.rs",
            "advertise.extend(external.map(",
            "advertise.extend(external.filter(|_| !FAULT).map(",
        )],
        finders: &[lab(
            "portmap",
            "a_host_at_home_invites_by_the_address_that_its_router_forwards",
        )],
    },
];
