//! Sessions, channels and datagrams together, with a mirror as judge and without sockets.

mod members;
mod packets;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use kanpachi_common::{
    NodeId, OrgId, UnixTime,
    roster::{Position, Proof},
    wire::relay::{
        Channel, LIFETIME, Open, Opened, Pair, PairState, Paired, Reason, RelayMessage,
        RelayRefused, Renew, SessionKey, Wanted,
        datagram::{BIND_LEN, Bind, Step, decode_bound, decode_header, encode_bind, encode_header},
    },
};
use proptest::prelude::*;

use super::{
    Clock, Limits, PacketPart, Shared,
    core::{Fresh, Now, StreamId, examine},
    forward::Sender,
    judge::Claims,
    outbox::{Next, Outbox},
};
use crate::{
    Mirror,
    mirror::tests::{Org, node},
};

const SECOND: u64 = 1_000_000_000;
const WALL: u64 = 1000;

/// Datagrams and where they went.
type Sent = Vec<(SocketAddr, Vec<u8>)>;

/// What was sent, datagram by datagram.
#[derive(Clone, Debug, Default)]
struct Wire(Arc<Mutex<Sent>>);

impl Sender for Wire {
    fn send(&self, to: SocketAddr, data: &[u8], segment_size: Option<usize>) -> io::Result<()> {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = data.chunks(segment_size.unwrap_or(data.len()));
        sent.extend(parts.map(|part| (to, part.to_vec())));
        Ok(())
    }
}

/// A relay of an organisation, whose clock is set by the test.
struct World {
    org: Org,
    mirror: Mirror,
    shared: Arc<Shared>,
    packets: PacketPart<Wire>,
    wire: Wire,
    numbers: u32,
}

/// A stream to the relay.
struct Client {
    node: NodeId,
    id: StreamId,
    outbox: Arc<Outbox>,
    claims: Claims,
    session: u32,
    key: SessionKey,
}

fn limits() -> Limits {
    Limits {
        sessions: 8,
        rate: 1_000_000,
    }
}

impl World {
    fn new() -> Self {
        Self::with(Org::new(), limits())
    }

    fn with(org: Org, limits: Limits) -> Self {
        let clock = Clock::Test(AtomicU64::new(SECOND));
        let shared = Arc::new(Shared::new(limits, clock));
        let wire = Wire::default();
        let secret = SessionKey([9; 32]);
        Self {
            mirror: Mirror::in_memory(org.id()),
            packets: PacketPart::new(wire.clone(), Arc::clone(&shared), secret),
            org,
            shared,
            wire,
            numbers: 100,
        }
    }

    /// The mirror hears of a roster, and the relay of the change.
    fn hears(&self, network: u8, epoch: u64, members: &[u8]) {
        let roster = self.org.roster(network, epoch, WALL, members);
        let item = self.org.item(epoch, Some(roster));
        let put = self.mirror.put(item);
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        let reply = runtime.block_on(put);
        assert_eq!(reply, kanpachi_common::wire::mirror::MirrorReply::Kept);
        let now = self.now();
        self.shared.core().rejudge(&self.mirror, now);
    }

    fn proof(&self, network: u8, epoch: u64, members: &[u8], of: u8) -> Proof {
        let roster = self.org.verified(network, epoch, WALL, members);
        Proof::of(&roster, &node(of), false).unwrap()
    }

    fn now(&self) -> Now {
        Now {
            nanos: self.shared.now(),
            wall: UnixTime(WALL),
        }
    }

    fn wait(&self, nanos: u64) {
        let Clock::Test(now) = &self.shared.clock else {
            unreachable!("a test has its own clock")
        };
        now.fetch_add(nanos, Relaxed);
        let now = self.now();
        self.shared.core().tick(now);
    }

    fn connect(&self, seed: u8) -> Client {
        let outbox = Arc::new(Outbox::new(Arc::clone(&self.shared.budget)));
        let id = self
            .shared
            .core()
            .stream_opened(node(seed), Arc::clone(&outbox));
        Client {
            node: node(seed),
            id,
            outbox,
            claims: Claims::default(),
            session: 0,
            key: SessionKey([0; 32]),
        }
    }

    fn open(
        &mut self,
        client: &mut Client,
        proofs: Vec<Proof>,
        manifest: bool,
    ) -> Vec<RelayMessage> {
        let open = Open {
            min_version: 1,
            max_version: 1,
            org: self.org.id(),
            proofs,
            manifest: manifest.then(|| self.org.manifest()),
            ext: vec![],
        };
        self.open_with(client, &open)
    }

    fn open_with(&mut self, client: &mut Client, open: &Open) -> Vec<RelayMessage> {
        self.numbers += 1;
        let number = self.numbers;
        let key = SessionKey([u8::try_from(number % 251).unwrap(); 32]);
        let now = self.now();
        let examined = examine(&self.mirror, &client.node, open, now.wall);
        if let Ok(admitted) = &examined {
            client.claims = admitted.claims.clone();
        }
        let fresh = || Some(Fresh { number, key });
        self.shared
            .core()
            .open(client.id, examined, &self.mirror, fresh, now);
        let said = client.said();
        if let Some(RelayMessage::Opened(Opened { session, key, .. })) = said.first() {
            (client.session, client.key) = (*session, *key);
        }
        said
    }

    /// A member with a session, its address bound.
    fn member(&mut self, seed: u8, address: SocketAddr) -> Client {
        let mut client = self.connect(seed);
        let said = self.open(&mut client, vec![], false);
        assert!(
            matches!(said[..], [RelayMessage::Opened(_), ..]),
            "{said:?}"
        );
        self.bind(&client, address);
        client
    }

    fn bind(&mut self, client: &Client, from: SocketAddr) -> [u8; BIND_LEN] {
        let first = self.datagram(from, &client.bind([0; 16]));
        let [(to, answer)] = &first[..] else {
            panic!("{first:?}");
        };
        assert_eq!(*to, from);
        let (Step::Challenge, challenge) = decode_bound(answer).unwrap() else {
            panic!("bound without a cookie");
        };
        let second = client.bind(challenge.cookie);
        let answers = self.datagram(from, &second);
        let step = decode_bound(&answers[0].1).unwrap().0;
        assert_eq!((step, answers[0].0), (Step::Bound, from));
        second
    }

    /// What the relay sends on because of a datagram.
    fn datagram(&mut self, from: SocketAddr, datagram: &[u8]) -> Sent {
        self.packets.handle(from, datagram);
        self.packets.end_of_batch();
        std::mem::take(&mut *self.wire.0.lock().unwrap())
    }

    fn data(&mut self, from: SocketAddr, client: &Client, channel: u16, body: &[u8]) -> Sent {
        let mut datagram = encode_header(client.session, channel).to_vec();
        datagram.extend(body);
        self.datagram(from, &datagram)
    }

    fn say(&self, client: &Client, message: &RelayMessage) {
        let now = self.now();
        self.shared.core().message(client.id, message, now);
    }

    fn pair(&self, client: &Client, channel: u16, peer: &Client) {
        let peer = peer.node;
        self.say(client, &RelayMessage::Pair(Pair { channel, peer }));
    }

    /// Two members with bound addresses and an open pair, channel 3 here and 5 there.
    fn pair_of_members(&mut self) -> (Client, Client) {
        self.hears(1, 1, &[10, 11, 12]);
        let (a, b) = (self.member(10, at(10)), self.member(11, at(11)));
        self.pair(&a, 3, &b);
        self.pair(&b, 5, &a);
        (a, b)
    }
}

impl Client {
    fn bind(&self, cookie: [u8; 16]) -> [u8; BIND_LEN] {
        let bind = Bind {
            session: self.session,
            nonce: [1; 8],
            cookie,
        };
        encode_bind(&bind, &self.key)
    }

    /// Everything that the relay has said on the stream since.
    fn said(&self) -> Vec<RelayMessage> {
        let mut said = Vec::new();
        while let Some(Next::Message(message)) = self.outbox.take(0) {
            said.push(message);
        }
        said
    }

    fn states(&self) -> Vec<(u16, PairState)> {
        let said = self.said();
        let states = said.iter().filter_map(|message| match message {
            RelayMessage::Paired(Paired { channel, state }) => Some((*channel, *state)),
            _ => None,
        });
        states.collect()
    }

    fn refusal(&self) -> RelayRefused {
        match &self.said()[..] {
            [.., RelayMessage::Refused(refused)] => refused.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// The datagrams that wait to be written on the stream.
    fn frames(&self, now: u64) -> Vec<(u16, Vec<u8>)> {
        let mut frames = Vec::new();
        loop {
            match self.outbox.take(now) {
                Some(Next::Data(channel, datagram)) => frames.push((channel, datagram)),
                Some(Next::Message(_)) => {}
                Some(Next::End) | None => return frames,
            }
        }
    }
}

fn at(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 1000 + u16::from(host)))
}

fn refused_for(said: &[RelayMessage]) -> Reason {
    match said {
        [RelayMessage::Refused(refused)] => refused.reason,
        other => panic!("{other:?}"),
    }
}
