//! One of each message of the streams.

use kanpachi_common::{
    ClientId, MemberId, NatBehaviour, Password,
    addr::ipv6_of,
    nat::{Filtering, Mapping},
    wire::{
        code::{CodeRefusal, CodeReply, CodeRequest, Element, Tag},
        control::{
            Announce, ClientMessage, DirectoryIs, Held, Hello, InviteMade, Join, Joined,
            MakeInvite, NameSet, Nonce, PeerOffline, PeerOnline, Pull, Refused, Registration,
            Removed, Resting, SecretIs, ServerMessage, SetName, Welcome, codes,
        },
        frame::Frame,
        member::{Ask, Gone, Holds, MemberMessage as M, RecordIs},
        membership::{
            CreateNetwork, DeleteNetwork, Evict, Evicted, JoinByPassword, Leave, SetAccess,
            SetPassword, SetPresence, SetRole, Settle, Suspended, Waiting,
        },
        mirror::{MirrorReply, MirrorRequest},
        showing::{ShowRoster, Shown},
    },
};

use crate::fixture::*;

fn registration() -> Registration {
    let (_, private) = halves(2);
    Registration {
        ipv4: private.ipv4,
        ipv6: ipv6_of(&org(), &node(2).node_id()),
        networks: vec![NETWORK],
        client_id: Some(ClientId::of(&node(2).node_id(), 0)),
        waiting: vec![Waiting {
            network: NETWORK,
            name: "games".into(),
        }],
    }
}

fn held() -> Vec<Held> {
    vec![Held {
        network: NETWORK,
        position: verified5().head().position(),
        root: roster5().root(),
    }]
}

fn nat() -> Option<NatBehaviour> {
    Some(NatBehaviour {
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::AddressAndPortDependent,
    })
}

/// Names and frames of what a node sends.
pub(crate) fn client() -> Vec<(&'static str, Frame)> {
    let hello = Hello {
        min_version: 1,
        max_version: 1,
        caps: 0,
        client: "kanpachi 0.1.0".into(),
        org: org(),
        tunnel: tunnel_key(2),
        boot: 7,
        held: held(),
        candidates: candidates(),
        nat: None,
        away: vec![NETWORK],
        ext: vec![],
    };
    let join = Join {
        token: invite().secret.token(),
        name: "machine".into(),
    };
    let make = MakeInvite {
        network: NETWORK,
        uses: Some(1),
        expires_in: 604_800,
    };
    let set = SetName {
        network: None,
        name: "lamp".into(),
    };
    let announce = Announce {
        candidates: candidates(),
        nat: None,
    };
    let behind_nat = Announce {
        candidates: vec![],
        nat: nat(),
    };
    vec![
        ("hello", ClientMessage::Hello(hello).frame(0)),
        ("ping", ClientMessage::Ping(Nonce(42)).frame(0)),
        ("pong", ClientMessage::Pong(Nonce(42)).frame(0)),
        ("announce", ClientMessage::Announce(announce).frame(0)),
        ("announce-nat", ClientMessage::Announce(behind_nat).frame(0)),
        ("pull", ClientMessage::Pull(Pull { held: held() }).frame(1)),
        ("join", ClientMessage::Join(join).frame(2)),
        ("make-invite", ClientMessage::MakeInvite(make).frame(3)),
        ("set-name", ClientMessage::SetName(set).frame(4)),
    ]
    .into_iter()
    .chain(membership())
    .collect()
}

/// Names and frames of what changes networks.
fn membership() -> Vec<(&'static str, Frame)> {
    use ClientMessage as C;
    let password = || Password::new("correct horse").unwrap();
    let (network, member) = (NETWORK, MemberId([4; 32]));
    let create = CreateNetwork {
        network,
        name: "games".into(),
        password: Some(password()),
        member_name: "machine".into(),
    };
    let join = JoinByPassword {
        network: "games".into(),
        password: password(),
        member_name: "machine".into(),
    };
    let leave = Leave {
        network,
        heir: Some(member),
    };
    let evict = Evict {
        network,
        member,
        password: Some(password()),
    };
    let set_password = SetPassword {
        network,
        password: Some(password()),
    };
    let access = SetAccess {
        network,
        locked: Some(true),
        approval: None,
    };
    let settle = Settle {
        network,
        member,
        approved: true,
    };
    let role = SetRole {
        network,
        member,
        owner: true,
    };
    let presence = SetPresence {
        network,
        online: false,
    };
    let suspended = Suspended {
        suspends: vec![suspend()],
    };
    let shown = Shown {
        page: page(),
        secret: Some(secret()),
    };
    vec![
        ("create-network", C::CreateNetwork(create).frame(5)),
        ("join-by-password", C::JoinByPassword(join).frame(6)),
        ("leave", C::Leave(leave).frame(7)),
        (
            "delete-network",
            C::DeleteNetwork(DeleteNetwork { network }).frame(8),
        ),
        ("evict", C::Evict(evict).frame(9)),
        ("set-password", C::SetPassword(set_password).frame(10)),
        ("set-access", C::SetAccess(access).frame(11)),
        ("settle", C::Settle(settle).frame(12)),
        ("set-role", C::SetRole(role).frame(13)),
        ("set-presence", C::SetPresence(presence).frame(14)),
        ("suspended", C::Suspended(suspended).frame(15)),
        ("shown", C::Shown(Box::new(shown)).frame(0)),
        ("resting", C::Resting(Resting(20_000)).frame(0)),
    ]
}

/// Names and frames of what a coordinator sends.
pub(crate) fn server() -> Vec<(&'static str, Frame)> {
    let welcome = Welcome {
        version: 1,
        caps: 0,
        manifest: manifest(),
        directory: directory(),
        time: ISSUED_AT,
        registration: Some(registration()),
        ext: vec![],
    };
    let refused = Refused {
        code: codes::INVITE_USED,
        message: "the invite was used up".into(),
        retry_ms: None,
    };
    let secret = SecretIs {
        network: NETWORK,
        secret: secret(),
    };
    let online = PeerOnline {
        node: node(3).node_id(),
        candidates: candidates(),
        networks: Some(vec![NETWORK]),
        nat: nat(),
    };
    let offline = PeerOffline {
        node: node(3).node_id(),
    };
    let directory = DirectoryIs {
        manifest: manifest(),
        directory: directory(),
    };
    let joined = Joined {
        network: NETWORK,
        network_name: "lan".into(),
        name: "machine-2".into(),
        registration: registration(),
        waiting: false,
    };
    let made = InviteMade {
        link: invite().to_link(),
        expires_at: ISSUED_AT.plus(604_800),
    };
    let names = NameSet {
        names: vec![(NETWORK, "lamp".into())],
    };
    let removed = Removed { network: NETWORK };
    let evicted = Evicted {
        revoked_invites: 2,
        password_known: true,
    };
    use ServerMessage as S;
    vec![
        ("welcome", S::Welcome(Box::new(welcome)).frame(0)),
        ("ping", S::Ping(Nonce(43)).frame(0)),
        ("pong", S::Pong(Nonce(42)).frame(0)),
        ("refused", S::Refused(refused).frame(2)),
        ("delta", S::Delta(Box::new(delta())).frame(0)),
        ("page", S::Page(Box::new(page())).frame(0)),
        ("secret", S::Secret(secret).frame(0)),
        ("removed", S::Removed(removed).frame(0)),
        ("peer-online", S::PeerOnline(online).frame(0)),
        ("peer-offline", S::PeerOffline(offline).frame(0)),
        ("directory", S::Directory(Box::new(directory)).frame(0)),
        ("done", S::Done(Nonce(0)).frame(1)),
        ("joined", S::Joined(joined).frame(2)),
        ("invite-made", S::InviteMade(made).frame(3)),
        ("name-set", S::NameSet(names).frame(4)),
        ("evicted", S::Evicted(evicted).frame(9)),
        (
            "show-roster",
            S::ShowRoster(ShowRoster { network: NETWORK }).frame(0),
        ),
    ]
}

/// Names and frames of the mirror stream.
pub(crate) fn mirror() -> Vec<(&'static str, Frame)> {
    let refused = MirrorReply::Refused("signed by a key that is not trusted here".into());
    vec![
        ("put", MirrorRequest::Put(Box::new(mirrored(true))).frame()),
        ("get", MirrorRequest::Get(org(), NETWORK).frame()),
        ("directory", MirrorRequest::Directory(org()).frame()),
        ("kept", MirrorReply::Kept.frame()),
        (
            "older",
            MirrorReply::Older(Box::new(mirrored(false))).frame(),
        ),
        (
            "found",
            MirrorReply::Found(Box::new(mirrored(false))).frame(),
        ),
        ("unknown", MirrorReply::Unknown.frame()),
        ("refused", refused.frame()),
    ]
}

/// Names and frames of the streams between members.
pub(crate) fn member() -> Vec<(&'static str, Frame)> {
    let roster = verified5();
    let head = roster.head();
    let ask = Ask {
        generation: 1,
        directory: 3,
        held: vec![Holds {
            network: NETWORK,
            position: head.position(),
            root: head.root,
            issued_at: head.issued_at,
            secret: Some(1),
        }],
        suspends: vec![suspend()],
        proofs: vec![proof(true)],
        records: true,
        ext: vec![],
    };
    let record = RecordIs {
        network: NETWORK,
        value: vec![0xa4; 8],
    };
    let secret = SecretIs {
        network: NETWORK,
        secret: secret(),
    };
    let gone = Gone {
        head: head.signed().clone(),
    };
    vec![
        ("ask", M::Ask(Box::new(ask)).frame(0)),
        ("manifest", M::Manifest(Box::new(manifest())).frame(0)),
        ("directory", M::Directory(Box::new(directory())).frame(0)),
        ("page", M::Page(Box::new(page())).frame(0)),
        ("secret", M::Secret(secret).frame(0)),
        ("suspend", M::Suspend(Box::new(suspend())).frame(0)),
        ("record", M::Record(record).frame(0)),
        ("gone", M::Gone(gone).frame(0)),
        ("done", M::Done(Nonce(0)).frame(0)),
    ]
}

/// Names and frames of the code stream; its numbers are not those of an exchange, which `kanpachi-proto` has.
pub(crate) fn code() -> Vec<(&'static str, Frame)> {
    let start = CodeRequest::Start {
        min_version: 1,
        max_version: 1,
        org: org(),
        element: Element([0x41; 33]),
    };
    let invite = CodeReply::Invite {
        tag: Tag([0x43; 32]),
        sealed: vec![0x44; 200],
    };
    use CodeRefusal as R;
    vec![
        ("start", start.frame()),
        ("confirm", CodeRequest::Confirm(Tag([0x42; 32])).frame()),
        ("element", CodeReply::Element(Element([0x42; 33])).frame()),
        ("invite", invite.frame()),
        ("wrong", CodeReply::Refused(R::Wrong { left: 2 }).frame()),
        ("later", CodeReply::Refused(R::Later { ms: 4000 }).frame()),
        ("elsewhere", CodeReply::Refused(R::Elsewhere).frame()),
    ]
}
