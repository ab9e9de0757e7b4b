//! Faults of how packets fit the path (tests/mtu_show6): sizes, black holes, forged ICMP, fragments.

use crate::fault::{Fault, lab, lib};

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "every datagram as large as it comes",
        edits: &[(
            "node/src/dataplane/outbound.rs",
            "if !sending.limit.full {",
            "if !FAULT && !sending.limit.full {",
        )],
        finders: &[lab(
            "mtu_show6",
            "sessions_and_datagrams_pass_whatever_the_path_mtu",
        )],
    },
    Fault {
        name: "a size once found is never doubted",
        edits: &[(
            "node/proto/src/path/mtu.rs",
            "Some((due, Stage::Check)).filter(|_| using.active)",
            "Some((due, Stage::Check)).filter(|_| using.active && !FAULT)",
        )],
        finders: &[
            lab(
                "mtu_show6",
                "a_black_hole_is_found_from_the_start_and_under_a_running_session",
            ),
            lib(
                "node/proto",
                "path::mtu::tests::a_black_hole_is_noticed_within_seconds_and_a_smaller_size_found",
            ),
        ],
    },
    Fault {
        name: "ICMP is believed",
        edits: &[(
            "common/transport/src/socket.rs",
            "let quic = UdpSocketState::new((&socket).into())?;",
            "let quic = UdpSocketState::new((&socket).into())?;
             if FAULT {
                 use std::os::fd::AsRawFd as _;
                 let want: libc::c_int = libc::IP_PMTUDISC_WANT;
                 let options = [(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER), (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)];
                 for (level, name) in options {
                     #[expect(unsafe_code, reason = \"a fault\")]
                     // SAFETY: the pointer and length describe `want`, which outlives the call.
                     let _ = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const want).cast(), 4) };
                 }
             }",
        )],
        finders: &[lab("mtu_show6", "forged_icmp_makes_no_datagram_smaller")],
    },
    Fault {
        name: "pieces of two packets make one",
        edits: &[(
            "node/proto/src/tunnel/reassembly.rs",
            "if !agrees ||",
            "if (!agrees && !FAULT) ||",
        )],
        finders: &[lib(
            "node/proto",
            "tunnel::reassembly::tests::pieces_that_contradict_each_other_are_dropped_with_the_rest",
        )],
    },
    Fault {
        name: "another MSS under the old checksum",
        edits: &[(
            "node/src/dataplane/mss.rs",
            "let checksum = updated(checksum, old, new);",
            "let checksum = if FAULT { checksum } else { updated(checksum, old, new) };",
        )],
        finders: &[lib(
            "node",
            "dataplane::mss::tests::a_syn_is_lowered_to_the_path_and_never_raised",
        )],
    },
];
