//! Several nodes around a DHT made of a map: publishing, finding, squatting, day and secret turning over.

mod gently;

use std::collections::BTreeMap;

use kanpachi_common::{
    CandidateKind,
    record::{MAX_TTL, PeerRecord, Sealing, enclose, open, seal},
};

use super::{
    lookup::{HEAD_START, PATIENCE},
    publish::{GAP, MAX_REPUBLISH, REPUBLISH},
    *,
};

const NETWORK: NetworkId = NetworkId([0xaa; 32]);
const OTHER: NetworkId = NetworkId([0xbb; 32]);
const START: UnixTime = UnixTime(1_790_000_000);

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

fn id(n: u8) -> NodeId {
    key(n).node_id()
}

fn secret(id: u32) -> NetworkSecret {
    NetworkSecret::new(id, [id as u8; 32])
}

fn group(secrets: &[u32], members: &[u8]) -> Group {
    Group {
        network: NETWORK,
        position: Position {
            generation: 1,
            epoch: 5,
        },
        secrets: secrets.iter().map(|id| secret(*id)).collect(),
        members: members.iter().map(|n| id(*n)).collect(),
    }
}

fn at(port: u16) -> Vec<Candidate> {
    vec![Candidate {
        addr: ([198, 51, 100, 7], port).into(),
        kind: CandidateKind::Host,
    }]
}

/// A DHT without distance: one store, which may be down.
#[derive(Default)]
struct Dht {
    values: BTreeMap<Hash, Vec<Vec<u8>>>,
    down: bool,
    gets: usize,
    puts: usize,
    /// Puts of what is not new, and servers that had it one by one.
    gentle: usize,
    ones: usize,
    /// Servers that were given what they miss, and whether that may be all.
    given: Vec<(NodeId, bool)>,
}

struct Node {
    records: Records,
    now: Now,
    /// What was found, and how.
    found: Vec<Found>,
    /// What is on disk.
    disk: Stored,
    /// Values that it keeps for others.
    kept: BTreeMap<Hash, Vec<u8>>,
    disk_full: bool,
}

impl Node {
    fn new(n: u8) -> Self {
        Self::with(n, 1, Stored::default(), START)
    }

    fn with(n: u8, boot: u64, disk: Stored, wall: UnixTime) -> Self {
        let began = Now {
            instant: Instant::now(),
            wall,
        };
        // What it does first is not what most of these tests are about.
        let instant = began.instant + HEAD_START;
        Self {
            records: Records::new(key(n), boot, disk.clone(), [n; 32], began),
            now: Now { instant, wall },
            found: Vec::new(),
            disk,
            kept: BTreeMap::new(),
            disk_full: false,
        }
    }

    /// One that published already.
    fn published(n: u8, port: u16, dht: &mut Dht) -> Self {
        let mut node = Self::new(n);
        node.records
            .set_groups(vec![group(&[1], &[1, 2, 3])], node.now);
        node.records.set_own(at(port), vec![], node.now);
        node.pass(Duration::from_secs(1), dht);
        node
    }

    fn pass(&mut self, time: Duration, dht: &mut Dht) {
        let until = self.now.instant + time;
        let wall = self.now.wall.plus(time.as_secs());
        self.drain(dht);
        while let Some(due) = self.records.poll_timeout().filter(|due| *due <= until) {
            self.now.instant = self.now.instant.max(due);
            self.records.handle_timeout(self.now);
            self.drain(dht);
        }
        self.now = Now {
            instant: until,
            wall,
        };
        self.records.handle_timeout(self.now);
        self.drain(dht);
    }

    fn drain(&mut self, dht: &mut Dht) {
        loop {
            if let Some(update) = self.records.poll_update() {
                if !self.disk_full {
                    self.write(&update);
                    self.records.commit(&update, self.now);
                }
            } else if let Some(action) = self.records.poll_action() {
                self.carry_out(action, dht);
            } else {
                return;
            }
        }
    }

    fn write(&mut self, update: &Update) {
        match update {
            Update::Counter(counter) => self.disk.counter = *counter,
            Update::Cache { keep, forget } => {
                let gone = |k: &Kept| forget.contains(&(k.network, k.node));
                let new = |k: &Kept| {
                    keep.iter()
                        .any(|n| (n.network, n.node) == (k.network, k.node))
                };
                self.disk.kept.retain(|k| !gone(k) && !new(k));
                self.disk.kept.extend(keep.iter().cloned());
            }
        }
    }

    fn carry_out(&mut self, action: Action, dht: &mut Dht) {
        match action {
            Action::Put {
                query,
                key,
                value,
                gently,
                ..
            } => {
                dht.puts += 1;
                dht.gentle += usize::from(gently);
                if !dht.down {
                    dht.values.entry(key).or_default().insert(0, value);
                }
                self.records
                    .handle_put(query, usize::from(!dht.down), self.now);
            }
            Action::Get { query, key, gently } => {
                dht.gets += usize::from(!gently);
                if !dht.down {
                    for value in dht.values.get(&key).into_iter().flatten() {
                        self.records.handle_value(query, value, self.now);
                    }
                }
                self.records.handle_finished(query, self.now);
            }
            Action::Found(found) => self.found.push(found),
            Action::Keep { key, value, .. } => {
                self.kept.insert(key, value);
            }
            Action::Drop(keys) => self.kept.retain(|key, _| !keys.contains(key)),
            Action::PutOne(keys) => {
                assert!(keys.iter().all(|key| dht.values.contains_key(key)));
                dht.ones += 1;
            }
            Action::Give { server, lost, keys } => {
                assert!(keys.iter().all(|key| dht.values.contains_key(key)));
                dht.given.push((server, lost));
            }
            Action::Stop(_) => {}
        }
    }

    fn want(&mut self, n: u8, dht: &mut Dht) {
        self.records.set_wanted(&BTreeSet::from([id(n)]), self.now);
        self.drain(dht);
    }

    fn ports(&self) -> Vec<u16> {
        self.found
            .iter()
            .map(|f| f.candidates[0].addr.port())
            .collect()
    }
}

fn own_key(n: u8, secret_id: u32, wall: UnixTime) -> Hash {
    let key = secret(secret_id).record_key(&id(n), wall.0 / DAY);
    OuterRecord::dht_key(&key.public_key())
}

fn record(n: u8, boot: u64, seq: u64, port: u16) -> PeerRecord {
    PeerRecord {
        node: id(n),
        boot,
        seq,
        candidates: at(port),
        relays: vec![],
        epochs: vec![],
        ttl: MAX_TTL,
        nat: None,
    }
}

fn sealing(secret: &NetworkSecret, seq: u64) -> Sealing<'_> {
    Sealing {
        secret,
        day: START.0 / DAY,
        seq,
        nonce: [5; 12],
    }
}

fn seq_of(dht: &Dht, key: &Hash) -> u64 {
    shelf::judge(&key.0, &dht.values[key][0], None).unwrap().seq
}

#[test]
fn a_wanted_peer_is_found_where_it_says_that_it_is() {
    let mut dht = Dht::default();
    let _alice = Node::published(1, 4001, &mut dht);
    let mut bob = Node::published(2, 4002, &mut dht);
    bob.want(1, &mut dht);
    bob.pass(Duration::from_secs(1), &mut dht);
    assert_eq!(bob.ports(), [4001]);
    assert_eq!(bob.found[0].source, Source::Dht);
    assert_eq!(bob.records.counters().found, 1);
}

#[test]
fn what_a_network_had_that_was_left_is_given_to_nobody_any_more() {
    let mut dht = Dht::default();
    let mut alice = Node::published(1, 4001, &mut dht);
    let (before, puts) = (dht.ones, dht.puts);
    alice.records.set_groups(vec![], alice.now);
    alice.pass(Duration::from_secs(1), &mut dht);
    assert_eq!(dht.ones, before + 1, "who gives it one by one is told");
    alice.pass(Duration::from_secs(7200), &mut dht);
    assert_eq!((dht.ones, dht.puts), (before + 1, puts));
}

#[test]
fn a_record_says_what_the_nat_does() {
    let mut dht = Dht::default();
    let (mut alice, mut bob) = (Node::published(1, 4001, &mut dht), Node::new(2));
    let nat = Some(NatBehaviour {
        mapping: kanpachi_common::nat::Mapping::AddressDependent,
        ..Default::default()
    });
    alice.records.set_nat(nat, alice.now);
    alice.pass(GAP, &mut dht);
    bob.records
        .set_groups(vec![group(&[1], &[1, 2, 3])], bob.now);
    bob.records.set_wanted(&BTreeSet::from([id(1)]), bob.now);
    bob.pass(Duration::from_secs(5), &mut dht);
    assert_eq!(bob.found.last().map(|found| found.nat), Some(nat));
}

#[test]
fn no_record_goes_out_before_its_number_is_on_disk() {
    let mut dht = Dht::default();
    let mut alice = Node::new(1);
    alice.disk_full = true;
    alice.records.set_groups(vec![group(&[1], &[2])], alice.now);
    alice.records.set_own(at(4001), vec![], alice.now);
    alice.pass(Duration::from_secs(1), &mut dht);
    assert!(dht.values.is_empty());
    alice.disk_full = false;
    alice.pass(Duration::from_secs(601), &mut dht);
    assert_eq!(dht.values.len(), 1);
    assert!(alice.disk.counter >= seq_of(&dht, &own_key(1, 1, START)));
}

#[test]
fn changes_go_out_soon_but_not_in_a_storm_and_the_timer_does_the_rest() {
    let mut dht = Dht::default();
    let mut alice = Node::published(1, 4001, &mut dht);
    for port in 5000..5100 {
        alice.records.set_own(at(port), vec![], alice.now);
        alice.pass(Duration::from_millis(100), &mut dht);
    }
    alice.pass(GAP, &mut dht);
    let published = alice.records.counters().published;
    assert!((2..=4).contains(&published), "{published}");
    let newest = &dht.values[&own_key(1, 1, START)][0];
    let newest = open(newest, &secret(1), &id(1), START.0 / DAY).unwrap();
    assert_eq!(newest.record.candidates, at(5099));
    let quiet = published_after(&mut alice, &mut dht, Duration::from_secs(6 * 3600));
    let pauses: Vec<u64> = quiet.windows(2).map(|two| two[1] - two[0]).collect();
    let (first, longest) = (REPUBLISH.as_secs(), MAX_REPUBLISH.as_secs());
    // Each a little early, and within a step.
    for (pause, full) in pauses.iter().zip([2 * first, 4 * first, longest, longest]) {
        let fits = (full * 3 / 4..=full + STEP).contains(pause);
        assert!(fits, "{pauses:?}");
    }
    assert!(quiet[0] <= first + STEP && pauses.len() >= 5, "{quiet:?}");
    // A change is told at once, and repeated soon.
    alice.records.set_own(at(6000), vec![], alice.now);
    let again = published_after(&mut alice, &mut dht, 2 * REPUBLISH);
    assert!(again[0] <= STEP && again[1] <= first + STEP, "{again:?}");
}

/// Seconds after which a node's record went out, in steps.
fn published_after(node: &mut Node, dht: &mut Dht, time: Duration) -> Vec<u64> {
    let mut times = Vec::new();
    for step in 1..=time.as_secs() / STEP {
        let before = node.records.counters().published;
        node.pass(Duration::from_secs(STEP), dht);
        if node.records.counters().published > before {
            times.push(step * STEP);
        }
    }
    times
}

/// In seconds.
const STEP: u64 = 10;

#[test]
fn numbers_rise_over_restarts_with_a_clock_that_went_back() {
    let mut dht = Dht::default();
    let alice = Node::published(1, 4001, &mut dht);
    let before = seq_of(&dht, &own_key(1, 1, START));
    let mut again = Node::with(1, 2, alice.disk, UnixTime(START.0 - 5000));
    again.records.set_groups(vec![group(&[1], &[2])], again.now);
    again.records.set_own(at(4001), vec![], again.now);
    again.pass(Duration::from_secs(1), &mut dht);
    let after = seq_of(&dht, &own_key(1, 1, START));
    assert!(after > before, "{after} after {before}");
}

#[test]
fn a_node_shown_a_higher_number_under_its_own_key_jumps_above_it() {
    let mut dht = Dht::default();
    let mut alice = Node::published(1, 4001, &mut dht);
    // A co-member squats the key with a number far ahead.
    let squat = enclose(
        b"nothing",
        &id(1),
        MAX_TTL,
        &sealing(&secret(1), START.0 * 2),
    );
    dht.values.insert(own_key(1, 1, START), vec![squat]);
    alice.pass(Duration::from_secs(15), &mut dht);
    let key = own_key(1, 1, START);
    assert!(seq_of(&dht, &key) > START.0 * 2, "the node did not notice");
    // The number inside is the node's own affair: nobody can drive it up.
    let inner = open(&dht.values[&key][0], &secret(1), &id(1), START.0 / DAY).unwrap();
    assert!(inner.record.seq < START.0 + 1000);
}

#[test]
fn a_copy_of_the_state_that_ran_ahead_is_overtaken() {
    let mut dht = Dht::default();
    let mut alice = Node::published(1, 4001, &mut dht);
    let ahead = record(1, 9, START.0 * 2, 4999);
    let value = seal(&ahead, &key(1), &sealing(&secret(1), START.0 * 2));
    alice.records.handle_given(&NETWORK, &value, alice.now);
    alice.pass(GAP * 2, &mut dht);
    let newest = &dht.values[&own_key(1, 1, START)][0];
    let newest = open(newest, &secret(1), &id(1), START.0 / DAY).unwrap();
    assert!((newest.record.boot, newest.record.seq) > (9, START.0 * 2));
    assert_eq!(newest.record.candidates, at(4001));
}

#[test]
fn an_invalid_answer_means_ask_elsewhere() {
    let mut dht = Dht::default();
    let _alice = Node::published(1, 4001, &mut dht);
    let key1 = own_key(1, 1, START);
    let forged = seal(
        &record(1, 99, 99, 6666),
        &key(3),
        &sealing(&secret(1), u64::MAX),
    );
    let squat = enclose(&[7; 50], &id(1), MAX_TTL, &sealing(&secret(1), u64::MAX));
    let foreign = seal(&record(3, 99, 99, 6667), &key(3), &sealing(&secret(1), 9));
    let bad = [forged, squat, foreign, b"junk".to_vec(), vec![0; 9000]];
    dht.values.get_mut(&key1).unwrap().splice(0..0, bad);
    let mut bob = Node::published(2, 4002, &mut dht);
    bob.want(1, &mut dht);
    bob.pass(Duration::from_secs(1), &mut dht);
    assert_eq!(bob.ports(), [4001]);
    assert_eq!(bob.records.counters().invalid, 5);
}

#[test]
fn an_older_start_and_a_lower_number_are_not_believed() {
    let mut dht = Dht::default();
    let mut bob = Node::published(2, 4002, &mut dht);
    let mut give = |boot, seq, port| {
        let value = seal(
            &record(1, boot, seq, port),
            &key(1),
            &sealing(&secret(1), seq),
        );
        let news = bob.records.handle_given(&NETWORK, &value, bob.now);
        bob.drain(&mut dht);
        news
    };
    assert!(give(5, 10, 4001));
    assert!(!give(5, 10, 4001), "the same again");
    assert!(!give(5, 9, 4002), "an older one");
    assert!(!give(4, 999, 4003), "of an older start");
    assert!(give(6, 1, 4004), "of a newer start");
    assert_eq!(bob.ports(), [4001, 4004]);
}

/// Most tunnels come up by themselves right after a start, and whoever has one is not looked up.
#[test]
fn nobody_is_looked_up_right_after_the_start_whatever_servers_appear() {
    let mut dht = Dht::default();
    let mut bob = Node::new(3);
    let start = bob.now.instant - HEAD_START;
    bob.now.instant = start;
    bob.records
        .set_groups(vec![group(&[1], &[1, 2, 3])], bob.now);
    let both = [id(1), id(2)].into_iter().collect();
    bob.records.set_wanted(&both, bob.now);
    bob.records.handle_server(id(1), true, bob.now);
    bob.pass(HEAD_START / 2, &mut dht);
    assert_eq!(dht.gets, 0);
    let one = [id(2)].into_iter().collect();
    bob.records.set_wanted(&one, bob.now);
    bob.pass(HEAD_START / 2 - Duration::from_millis(1), &mut dht);
    assert_eq!((dht.gets, bob.records.counters().lookups), (0, 0));
    assert_eq!(bob.records.poll_timeout(), Some(start + HEAD_START));
    bob.pass(Duration::from_millis(1), &mut dht);
    assert_eq!(
        bob.records.counters().lookups,
        1,
        "the one without a tunnel"
    );
}

#[test]
fn look_ups_are_few_at_a_time_and_ever_more_rare() {
    let mut dht = Dht {
        down: true,
        ..Dht::default()
    };
    let members: Vec<u8> = (1..=40).collect();
    let mut bob = Node::new(50);
    bob.records
        .set_groups(vec![group(&[1, 2], &members)], bob.now);
    let wanted = members.iter().map(|n| id(*n)).collect();
    // Nobody answers: queries stay open until they are given up.
    bob.records.set_wanted(&wanted, bob.now);
    let mut open = 0;
    while let Some(action) = bob.records.poll_action() {
        open += usize::from(matches!(action, Action::Get { .. }));
    }
    assert_eq!(open, lookup::PARALLEL);
    bob.pass(PATIENCE * 6, &mut dht);
    dht.gets = 0;
    bob.pass(Duration::from_secs(3600), &mut dht);
    // 40 peers, four keys, every five minutes.
    assert!(dht.gets <= 40 * 4 * 14, "{} queries", dht.gets);
    assert!(dht.gets >= 40 * 4 * 10, "{} queries", dht.gets);
}

#[test]
fn a_server_that_appears_is_asked_at_once_and_given_the_record() {
    let mut dht = Dht::default();
    let _alice = Node::published(1, 4001, &mut dht);
    dht.down = true;
    let mut bob = Node::published(2, 4002, &mut dht);
    bob.want(1, &mut dht);
    bob.pass(Duration::from_secs(40), &mut dht);
    assert!(bob.ports().is_empty() && !dht.values.contains_key(&own_key(2, 1, START)));
    dht.down = false;
    bob.records.handle_server(id(9), true, bob.now);
    bob.pass(Duration::from_secs(1), &mut dht);
    assert_eq!(bob.ports(), [4001]);
    assert!(dht.values.contains_key(&own_key(2, 1, START)));
}

#[test]
fn servers_that_come_and_go_are_given_what_they_miss_and_set_off_no_round() {
    let mut dht = Dht::default();
    let mut alice = Node::published(1, 4001, &mut dht);
    // Everybody's rounds connect everybody to everybody, and what is not used is closed soon after.
    let meet = |alice: &mut Node, dht: &mut Dht, lasting: bool| {
        for n in 2..22 {
            alice.records.handle_server(id(n), lasting, alice.now);
            alice.pass(Duration::from_secs(1), dht);
        }
    };
    for _ in 0..20 {
        meet(&mut alice, &mut dht, false);
    }
    // Seven minutes: the first renewal comes after seven and a half.
    assert_eq!((dht.puts, dht.given.len()), (1, 400));
    assert_eq!(dht.given.pop(), Some((id(21), false)));
    meet(&mut alice, &mut dht, true);
    assert_eq!((dht.puts, dht.given.pop()), (1, Some((id(21), true))));
}

#[test]
fn yesterdays_record_and_one_under_the_previous_secret_are_found() {
    let mut dht = Dht::default();
    let _alice = Node::published(1, 4001, &mut dht);
    // The secret was renewed, and midnight passed, and alice knows of neither.
    let mut bob = Node::with(2, 1, Stored::default(), START.plus(DAY));
    bob.records.set_groups(vec![group(&[2, 1], &[1])], bob.now);
    bob.want(1, &mut dht);
    bob.pass(Duration::from_secs(1), &mut dht);
    assert_eq!(bob.ports(), [4001]);
}

#[test]
fn a_new_day_and_a_new_secret_bring_a_new_key() {
    let mut dht = Dht::default();
    let mut alice = Node::published(1, 4001, &mut dht);
    alice.pass(Duration::from_secs(DAY), &mut dht);
    alice.pass(GAP, &mut dht);
    let tomorrow = START.plus(DAY);
    assert!(dht.values.contains_key(&own_key(1, 1, tomorrow)));
    alice
        .records
        .set_groups(vec![group(&[2, 1], &[2])], alice.now);
    alice.pass(GAP, &mut dht);
    assert!(dht.values.contains_key(&own_key(1, 2, tomorrow)));
}

#[test]
fn whoever_is_evicted_is_forgotten_here_and_on_disk() {
    let mut dht = Dht::default();
    let _alice = Node::published(1, 4001, &mut dht);
    let mut bob = Node::published(2, 4002, &mut dht);
    bob.want(1, &mut dht);
    bob.pass(Duration::from_secs(10), &mut dht);
    assert_eq!(bob.disk.kept.len(), 1);
    assert_eq!(bob.records.held_for(&NETWORK, bob.now).len(), 2);
    bob.records.set_groups(vec![group(&[1], &[3])], bob.now);
    bob.pass(Duration::from_secs(10), &mut dht);
    assert!(bob.disk.kept.is_empty());
    assert_eq!(bob.records.held_for(&NETWORK, bob.now).len(), 1);
}

#[test]
fn what_is_on_disk_is_verified_again_and_used_at_a_cold_start() {
    let mut dht = Dht::default();
    let _alice = Node::published(1, 4001, &mut dht);
    let mut bob = Node::published(2, 4002, &mut dht);
    bob.want(1, &mut dht);
    bob.pass(Duration::from_secs(10), &mut dht);
    // Started again soon after it passes on what it had.
    let mut soon = Node::with(2, 2, bob.disk.clone(), bob.now.wall.plus(600));
    soon.records
        .set_groups(vec![group(&[1], &[1, 3])], soon.now);
    soon.pass(Duration::from_secs(1), &mut Dht::default());
    assert_eq!(soon.records.held_for(&NETWORK, soon.now).len(), 1);
    let mut disk = bob.disk;
    let mut damaged = disk.kept[0].clone();
    damaged.node = id(3);
    disk.kept.push(damaged);
    let mut again = Node::with(2, 2, disk, START.plus(3 * DAY));
    again
        .records
        .set_groups(vec![group(&[1], &[1, 3])], again.now);
    again.pass(Duration::from_secs(10), &mut Dht::default());
    assert_eq!(again.ports(), [4001]);
    assert_eq!(again.found[0].source, Source::Disk);
    assert!(again.found[0].received <= START.plus(20));
    // Too old to be passed on.
    assert_eq!(again.records.held_for(&NETWORK, again.now).len(), 0);
    assert_eq!(again.disk.kept.len(), 1, "what does not verify goes");
}

#[test]
fn members_give_each_other_what_they_hold_and_old_records_do_not_go_round() {
    let mut dht = Dht::default();
    let alice = Node::published(1, 4001, &mut dht);
    let mut bob = Node::published(2, 4002, &mut dht);
    let mut carol = Node::published(3, 4003, &mut dht);
    for value in alice.records.held_for(&NETWORK, alice.now) {
        assert!(bob.records.handle_given(&NETWORK, &value, bob.now));
    }
    bob.drain(&mut dht);
    let given = bob.records.held_for(&NETWORK, bob.now);
    assert_eq!(given.len(), 2);
    for value in &given {
        assert!(
            !carol.records.handle_given(&OTHER, value, carol.now),
            "not of that network"
        );
        assert!(carol.records.handle_given(&NETWORK, value, carol.now));
    }
    carol.drain(&mut dht);
    assert_eq!(carol.ports(), [4002, 4001]);
    assert_eq!(carol.found[0].source, Source::Member);
    bob.pass(Duration::from_secs(u64::from(MAX_TTL) + 1), &mut dht);
    assert_eq!(bob.records.held_for(&NETWORK, bob.now).len(), 1, "its own");
}

#[test]
fn a_co_member_who_squats_a_key_keeps_nobody_from_storing_here() {
    let mut dht = Dht::default();
    let mut bob = Node::published(2, 4002, &mut dht);
    let place = own_key(1, 1, START);
    let good = seal(&record(1, 5, 10, 4001), &key(1), &sealing(&secret(1), 10));
    bob.records.handle_offered(id(1), &place.0, &good, bob.now);
    // Garbage, and alice's own old record, both under a number that cannot be passed.
    let squat = enclose(b"squat", &id(1), MAX_TTL, &sealing(&secret(1), u64::MAX));
    let old = seal(
        &record(1, 5, 9, 4000),
        &key(1),
        &sealing(&secret(1), u64::MAX),
    );
    let same = seal(
        &record(1, 5, 10, 4001),
        &key(1),
        &sealing(&secret(1), u64::MAX),
    );
    for value in [&squat, &old, &same] {
        bob.records.handle_offered(id(3), &place.0, value, bob.now);
    }
    let newer = seal(&record(1, 5, 11, 4011), &key(1), &sealing(&secret(1), 11));
    bob.records.handle_offered(id(1), &place.0, &newer, bob.now);
    bob.drain(&mut dht);
    assert_eq!(bob.kept[&place], newer);
    assert_eq!(bob.ports(), [4001, 4011]);
    assert_eq!(bob.records.counters().refused, 2);
}

#[test]
fn a_record_that_this_node_cannot_read_is_kept_by_its_number() {
    let mut dht = Dht::default();
    let mut bob = Node::published(2, 4002, &mut dht);
    let foreign = secret(77);
    let key77 = OuterRecord::dht_key(&foreign.record_key(&id(9), START.0 / DAY).public_key());
    let value = |seq| seal(&record(9, 1, seq, 4009), &key(9), &sealing(&foreign, seq));
    for seq in [5, 4, 6] {
        bob.records
            .handle_offered(id(9), &key77.0, &value(seq), bob.now);
    }
    bob.records
        .handle_offered(id(9), &[1; 32], &value(9), bob.now);
    bob.drain(&mut dht);
    assert_eq!(bob.kept[&key77], value(6));
    assert_eq!((bob.kept.len(), bob.records.counters().refused), (1, 2));
    bob.pass(Duration::from_secs(u64::from(MAX_TTL) + 61), &mut dht);
    assert!(bob.kept.is_empty(), "it outlived its ttl");
}
