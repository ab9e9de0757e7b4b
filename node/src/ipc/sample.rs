//! A status with everything in it, for the tests of whatever reads one.

use super::api::{
    Adapter, Coordinator, CoordinatorState, Freshness, Member, Network, Path, Relay, Relaying,
    SCHEMA, Status,
};

/// A node called desk in two networks, with members in every state.
pub(crate) fn status() -> Status {
    let (kitchen, lamp, server) = (kitchen(), lamp(), server());
    Status {
        schema: SCHEMA,
        version: "0.1.0".to_owned(),
        pid: 4711,
        org: Some("mzxw6ytboi3daobzgeztimrvgy3tqojqgezdgnbvgy3tqojqgezdg".to_owned()),
        name: Some("desk".to_owned()),
        node_id: "12D3KooWDesk".to_owned(),
        client_id: "090-736-821".to_owned(),
        logged_in: true,
        ipv4: Some([198, 19, 4, 5].into()),
        ipv6: Some("fd6b:616e:7061:1::1".parse().unwrap()),
        interface: "kanpachi0".to_owned(),
        adapter: Some(Adapter::Tun),
        mtu: Some(1400),
        listen: vec![
            "0.0.0.0:12976".parse().unwrap(),
            "[::]:12976".parse().unwrap(),
        ],
        coordinator: Coordinator {
            state: CoordinatorState::Connected,
            address: Some("203.0.113.7:12975".to_owned()),
            since: Some("2026-11-23T08:00:00Z".parse().unwrap()),
            last_error: None,
        },
        networks: vec![
            network("lan", "owner", vec![kitchen.clone(), lamp, server]),
            network("office", "member", vec![kitchen]),
        ],
        relays: vec![Relay {
            name: "203.0.113.7".to_owned(),
            node_id: "12D3KooWGQR9QFfaUrH2dKECfDLVtvgkjAswhKHtRf2iwukJjsgK".to_owned(),
            connected: true,
            udp: Some("203.0.113.7:12975".parse().unwrap()),
            channels: 3,
        }],
        relaying: Some(Relaying {
            members: 3,
            pairs: 1,
            forwarded: 12_345,
            forwarded_bytes: 12_900_000,
            drop_stranger: 0,
            drop_rate: 7,
            drop_full: 0,
        }),
        waiting: Vec::new(),
        problems: Vec::new(),
        counters: [("drop_replay".to_owned(), 3), ("drop_source".to_owned(), 0)].into(),
    }
}

fn network(name: &str, role: &str, members: Vec<Member>) -> Network {
    Network {
        name: name.to_owned(),
        id: format!("id-of-{name}"),
        generation: 1,
        epoch: 12,
        role: role.to_owned(),
        locked: false,
        approval: false,
        online: true,
        issued_at: "2026-11-23T07:00:00Z".parse().unwrap(),
        soft_expires_at: Some("2026-11-30T07:00:00Z".parse().unwrap()),
        hard_expires_at: Some("2026-12-23T07:00:00Z".parse().unwrap()),
        age_s: Some(7200),
        freshness: Some(Freshness::Green),
        members,
    }
}

fn kitchen() -> Member {
    Member {
        name: "Küche".to_owned(),
        node_id: "12D3KooWKitchen".to_owned(),
        client_id: "091-111-222".to_owned(),
        ipv4: Some([198, 19, 20, 30].into()),
        ipv6: Some("fd6b:616e:7061:1::2".parse().unwrap()),
        role: "member".to_owned(),
        waiting: false,
        underlay: vec![],
        suspended: false,
        online: true,
        path: Some(Path::Direct),
        via: None,
        path_since: Some("2026-11-23T08:30:00Z".parse().unwrap()),
        endpoint: Some("192.0.2.33:12976".parse().unwrap()),
        rtt_ms: Some(1.234),
        loss: Some(0.0),
        path_mtu: Some(1452),
        rx_bytes: 209_715_200,
        tx_bytes: 1_536,
        last_handshake: Some("2026-11-23T08:59:00Z".parse().unwrap()),
    }
}

fn lamp() -> Member {
    Member {
        name: "lamp".to_owned(),
        node_id: "12D3KooWLamp".to_owned(),
        client_id: "092-333-444".to_owned(),
        ipv4: Some([198, 19, 77, 1].into()),
        ipv6: Some("fd6b:616e:7061:1::3".parse().unwrap()),
        role: "member".to_owned(),
        waiting: false,
        underlay: vec![],
        suspended: false,
        online: false,
        path: None,
        via: None,
        path_since: None,
        endpoint: None,
        rtt_ms: None,
        loss: None,
        path_mtu: None,
        rx_bytes: 0,
        tx_bytes: 0,
        last_handshake: None,
    }
}

fn server() -> Member {
    Member {
        name: "サーバー".to_owned(),
        node_id: "12D3KooWServer".to_owned(),
        client_id: "093-555-666".to_owned(),
        ipv4: None,
        ipv6: Some("fd6b:616e:7061:1::4".parse().unwrap()),
        role: "owner".to_owned(),
        waiting: false,
        underlay: vec![],
        suspended: false,
        online: true,
        path: Some(Path::Relay),
        via: Some("lamp".to_owned()),
        path_since: Some("2026-11-23T08:58:00Z".parse().unwrap()),
        endpoint: Some("[2001:db8::9]:12975".parse().unwrap()),
        rtt_ms: Some(48.7),
        loss: Some(0.125),
        path_mtu: Some(1280),
        rx_bytes: 12,
        tx_bytes: 34,
        last_handshake: Some("2026-11-23T08:58:30Z".parse().unwrap()),
    }
}
