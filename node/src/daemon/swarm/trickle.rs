//! Who has the records of this node, and who is to have them next. What is not new servers get one by one, whichever had it the
//! longest ago first.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::kad::{Record, RecordKey};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Trickle {
    rounds: HashMap<RecordKey, Round>,
    /// Rounds that there were, whatever came of them.
    count: u64,
}

#[derive(Debug)]
struct Round {
    record: Record,
    /// When it is not believed any more. `record` has a time of the kernel's, which does not know of sleeps.
    end: Instant,
    number: u64,
    servers: HashMap<PeerId, Server>,
}

/// What a server has.
#[derive(Clone, Copy, Debug)]
struct Server {
    /// Of which round it took the value last, and when.
    taken: Option<(u64, Instant)>,
    /// Of which round it was offered the value last; 0 if it is to be offered that again.
    offered: u64,
    /// When it did not take one that came to it alone.
    tried: Option<Instant>,
    /// That offer did not end yet.
    under_way: bool,
    /// It connected meanwhile.
    came: bool,
}

impl Server {
    /// When it took or refused a value that it was given.
    fn last(&self) -> Option<Instant> {
        self.taken.map(|(_, at)| at).max(self.tried)
    }
}

impl Round {
    /// When a server had its last turn, if it was not offered this value; `None` for never.
    fn lacks(&self, server: &PeerId) -> Option<Option<Instant>> {
        match self.servers.get(server) {
            Some(known) if known.offered == self.number => None,
            known => Some(known.and_then(Server::last)),
        }
    }

    /// Is a server that is there now to be given this one? It may have lost what it took. While it is being offered this one it is
    /// only noted.
    fn misses(&mut self, server: &PeerId, lost: bool) -> bool {
        let Some(known) = self.servers.get_mut(server) else {
            return true;
        };
        let busy = known.under_way && known.offered == self.number;
        known.came |= busy;
        let has = known.taken.is_some_and(|(number, _)| number == self.number);
        !busy && (lost || !has)
    }

    fn offer(&mut self, server: PeerId) {
        let known = self.servers.get(&server);
        let taken = known.and_then(|known| known.taken);
        let offer = Server {
            // If it is offered what it took, it may have lost that.
            taken: taken.filter(|(number, _)| *number != self.number),
            tried: known.and_then(|known| known.tried),
            offered: self.number,
            under_way: true,
            came: false,
        };
        self.servers.insert(server, offer);
    }
}

/// Where a server comes in the order of a record.
fn lot(key: &RecordKey, server: &PeerId) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key.as_ref(), server.to_bytes()).hash(&mut hasher);
    hasher.finish()
}

/// A value on its way to servers.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) key: RecordKey,
    /// Of which round it is.
    pub(super) number: u64,
    pub(super) servers: Vec<PeerId>,
    /// It is what a round began with: whoever does not take it has it before the others after that.
    pub(super) at_once: bool,
}

/// A record that is offered to a server, and of which round it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) record: Record,
    pub(super) number: u64,
}

impl Trickle {
    /// A record goes out to these servers, and is believed for so long. Returns the number of this round.
    pub(super) fn start(
        &mut self,
        record: &Record,
        life: Duration,
        servers: &[PeerId],
        now: Instant,
    ) -> u64 {
        self.count += 1;
        let round = (self.rounds.entry(record.key.clone())).or_insert_with(|| Round {
            record: record.clone(),
            end: now,
            number: 0,
            servers: HashMap::new(),
        });
        (round.record, round.end) = (record.clone(), now + life);
        round.number = self.count;
        // Whoever took one before that lacks it by now.
        let counts = |known: &Server| known.last().is_some_and(|at| now < at + life);
        (round.servers).retain(|_, known| known.under_way || counts(known));
        for server in servers {
            round.offer(*server);
        }
        round.number
    }

    /// Of these servers, which were found to be near as well, those that were not offered the value of a round, which is offered
    /// them now; nobody if that is not the newest any more.
    pub(super) fn extend(
        &mut self,
        key: &RecordKey,
        number: u64,
        mut servers: Vec<PeerId>,
    ) -> Vec<PeerId> {
        let round = self.rounds.get_mut(key);
        let Some(round) = round.filter(|round| round.number == number) else {
            return Vec::new();
        };
        servers.retain(|server| round.lacks(server).is_some());
        for server in &servers {
            round.offer(*server);
        }
        servers
    }

    /// An offer has ended, and of those to whom it went some took it. Returns who did not and connected meanwhile.
    pub(super) fn ended(&mut self, offer: &Offer, taken: &[PeerId], now: Instant) -> Vec<PeerId> {
        let mut came = Vec::new();
        let Some(round) = self.rounds.get_mut(&offer.key) else {
            return came;
        };
        for server in &offer.servers {
            let Some(known) = round.servers.get_mut(server) else {
                continue;
            };
            let took = taken.contains(server);
            if took && known.taken.is_none_or(|(last, _)| last <= offer.number) {
                known.taken = Some((offer.number, now));
            }
            if known.offered != offer.number {
                // A later one is under way.
                continue;
            }
            if std::mem::take(&mut known.came) && !took {
                came.push(*server);
            }
            known.under_way = false;
            if !took {
                if offer.at_once {
                    known.offered = 0;
                } else {
                    known.tried = Some(now);
                }
            }
        }
        came
    }

    /// Is this what its round has to give, still?
    pub(super) fn is_newest(&self, given: &Given) -> bool {
        let round = self.rounds.get(&given.record.key);
        round.is_some_and(|round| round.number == given.number)
    }

    /// Nothing is under other keys any more.
    pub(super) fn keep_only(&mut self, keys: &[RecordKey]) {
        self.rounds.retain(|key, _| keys.contains(key));
    }

    /// The next server, and what it is given: whichever has what is the oldest. `nearest` says which servers are to have a
    /// record. Of those that have it since the same moment one after the other comes in an order of each record's own: nodes that do
    /// everything at one moment do not all turn to the same server. The distance is no such order, since some servers are the
    /// nearest to many records.
    pub(super) fn next(
        &mut self,
        mut nearest: impl FnMut(&RecordKey) -> Vec<PeerId>,
        now: Instant,
    ) -> Option<(PeerId, Vec<Given>)> {
        self.rounds.retain(|_, round| now < round.end);
        let turns = self.rounds.iter().flat_map(|(key, round)| {
            let servers = nearest(key).into_iter();
            servers.filter_map(|server| Some((round.lacks(&server)?, lot(key, &server), server)))
        });
        let (_, _, server) = turns.min()?;
        let given = self.give(&server, nearest, |round| round.lacks(&server).is_some());
        Some((server, given))
    }

    /// What a server misses that is there for some other reason; everything, if it may have lost what it took.
    pub(super) fn to(
        &mut self,
        server: &PeerId,
        nearest: impl FnMut(&RecordKey) -> Vec<PeerId>,
        lost: bool,
        now: Instant,
    ) -> Vec<Given> {
        self.rounds.retain(|_, round| now < round.end);
        self.give(server, nearest, |round| round.misses(server, lost))
    }

    fn give(
        &mut self,
        server: &PeerId,
        mut nearest: impl FnMut(&RecordKey) -> Vec<PeerId>,
        wants: impl Fn(&mut Round) -> bool,
    ) -> Vec<Given> {
        let mut given = Vec::new();
        for (key, round) in &mut self.rounds {
            if nearest(key).contains(server) && wants(round) {
                round.offer(*server);
                let (record, number) = (round.record.clone(), round.number);
                given.push(Given { record, number });
            }
        }
        given
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kanpachi_proto::records::{MAX_REPUBLISH, PACE};

    use super::*;

    const LIFE: Duration = Duration::from_secs(7200);

    /// The kernel's time is behind, as after a sleep: nothing goes by it.
    fn record(key: u8, value: u8, now: Instant) -> Record {
        Record {
            key: RecordKey::new(&[key]),
            value: vec![value],
            publisher: None,
            expires: now.checked_sub(LIFE),
        }
    }

    fn servers(count: usize) -> Vec<PeerId> {
        (0..count).map(|_| PeerId::random()).collect()
    }

    fn records(given: &[Given]) -> Vec<Record> {
        given.iter().map(|given| given.record.clone()).collect()
    }

    /// A record goes out to some servers, and some of them take it.
    fn round(
        trickle: &mut Trickle,
        record: &Record,
        to: &[PeerId],
        taken: &[PeerId],
        now: Instant,
    ) -> Offer {
        let offer = Offer {
            key: record.key.clone(),
            number: trickle.start(record, LIFE, to, now),
            servers: to.to_vec(),
            at_once: true,
        };
        assert_eq!(trickle.ended(&offer, taken, now), []);
        offer
    }

    /// One was given a record by itself, and took it or not.
    fn end(
        trickle: &mut Trickle,
        given: &Given,
        server: PeerId,
        took: bool,
        now: Instant,
    ) -> Vec<PeerId> {
        let offer = Offer {
            key: given.record.key.clone(),
            number: given.number,
            servers: vec![server],
            at_once: false,
        };
        let taken = if took { vec![server] } else { vec![] };
        trickle.ended(&offer, &taken, now)
    }

    #[test]
    fn all_have_the_newest_once_and_rounds_that_overlap_leave_nobody_out() {
        let servers = servers(20);
        let mut trickle = Trickle::default();
        let mut now = Instant::now();
        round(&mut trickle, &record(1, 0, now), &servers, &servers, now);
        let mut last: HashMap<PeerId, Instant> = servers.iter().map(|s| (*s, now)).collect();
        for number in 1..30 {
            // A round comes before the last one is through: every fourth server has it at once.
            let some = &servers[..5];
            round(&mut trickle, &record(1, number, now), some, some, now);
            last.extend(some.iter().map(|server| (*server, now)));
            let mut turns = BTreeSet::new();
            for _ in 0..8 {
                now += PACE;
                let (server, given) = trickle.next(|_| servers.clone(), now).unwrap();
                assert_eq!(given[0].record.value, [number]);
                assert!(!some.contains(&server) && turns.insert(server));
                assert_eq!(end(&mut trickle, &given[0], server, true, now), []);
                last.insert(server, now);
            }
            let longest = last.values().map(|at| now - *at).max().unwrap();
            assert!(longest <= PACE * 16, "{longest:?}");
        }
    }

    #[test]
    fn twenty_servers_have_the_record_all_the_time() {
        let servers = servers(20);
        let mut trickle = Trickle::default();
        let mut now = Instant::now();
        round(&mut trickle, &record(1, 0, now), &servers, &servers, now);
        let mut until: HashMap<PeerId, Instant> =
            servers.iter().map(|s| (*s, now + LIFE)).collect();
        let turns = MAX_REPUBLISH.as_secs() / PACE.as_secs();
        // The first round that is not new comes ten minutes after the one to all, and may have just missed a turn.
        now += Duration::from_secs(600) + PACE;
        for number in 1..60 {
            round(&mut trickle, &record(1, number, now), &[], &[], now);
            for _ in 0..turns {
                now += PACE;
                let late = now + Duration::from_secs(60);
                assert!(until.values().all(|end| late <= *end), "{number}");
                let (server, given) = trickle.next(|_| servers.clone(), now).unwrap();
                end(&mut trickle, &given[0], server, true, now);
                // By the server's clock, whenever the record was made.
                until.insert(server, now + LIFE);
            }
        }
    }

    #[test]
    fn who_did_not_take_it_is_the_next() {
        let servers = servers(5);
        let mut trickle = Trickle::default();
        let now = Instant::now();
        let all = |_: &RecordKey| servers.clone();
        round(&mut trickle, &record(1, 1, now), &servers, &servers, now);
        let later = now + PACE;
        let second = record(1, 2, now);
        round(&mut trickle, &second, &servers, &servers[..4], later);
        let (server, given) = trickle.next(all, later).unwrap();
        assert_eq!((server, trickle.next(all, later)), (servers[4], None));
        // It does not take it now either: once in a round is enough.
        let tried = later + Duration::from_secs(1);
        end(&mut trickle, &given[0], server, false, tried);
        assert_eq!(trickle.next(all, tried), None);
        // And whoever never does takes nobody's turn in the next one.
        let third = record(1, 3, now);
        round(&mut trickle, &third, &[], &[], later + PACE);
        for _ in 0..4 {
            let next = trickle.next(all, later + PACE);
            assert!(next.is_some_and(|(server, _)| servers[..4].contains(&server)));
        }
    }

    #[test]
    fn a_round_that_ends_late_says_nothing_of_the_next() {
        let servers = servers(2);
        let mut trickle = Trickle::default();
        let now = Instant::now();
        let all = |_: &RecordKey| servers.clone();
        let key = record(1, 1, now).key;
        let offer = |number| Offer {
            key: key.clone(),
            number,
            servers: servers.clone(),
            at_once: true,
        };
        let first = offer(trickle.start(&record(1, 1, now), LIFE, &servers, now));
        let second = offer(trickle.start(&record(1, 2, now), LIFE, &servers, now));
        // Of the first: one took it, and one did not. Both are still being offered the second.
        assert_eq!(trickle.ended(&first, &servers[..1], now), []);
        assert_eq!(trickle.next(all, now), None);
        assert_eq!(trickle.to(&servers[0], all, false, now), []);
        // Who was offered an older one is not kept waiting for that.
        let third = offer(trickle.start(&record(1, 3, now), LIFE, &servers[..1], now));
        assert_eq!(trickle.to(&servers[1], all, false, now).len(), 1);
        let second = Offer {
            number: third.number,
            ..second
        };
        assert_eq!(trickle.to(&servers[0], all, false, now), []);
        // Of the third none took it; who was there meanwhile is told of.
        assert_eq!(trickle.ended(&second, &[], now), [servers[0]]);
        assert_eq!(trickle.to(&servers[0], all, false, now).len(), 1);
        let next = trickle.next(all, now);
        assert_eq!(next.map(|(server, _)| server), Some(servers[1]));
    }

    #[test]
    fn nodes_that_do_everything_at_one_moment_do_not_all_turn_to_the_same_server() {
        let servers = servers(20);
        let now = Instant::now();
        let mut turns: HashMap<PeerId, u32> = HashMap::new();
        for publisher in 0..20 {
            let mut trickle = Trickle::default();
            let first = record(publisher, 1, now);
            round(&mut trickle, &first, &servers, &servers, now);
            round(
                &mut trickle,
                &record(publisher, 2, now),
                &[],
                &[],
                now + PACE,
            );
            // The same ones are the nearest to all.
            let (server, _) = trickle.next(|_| servers.clone(), now + PACE).unwrap();
            *turns.entry(server).or_default() += 1;
        }
        assert!(turns.values().all(|turns| *turns <= 8), "{turns:?}");
    }

    #[test]
    fn who_is_there_is_given_what_it_misses_once() {
        let servers = servers(3);
        let mut trickle = Trickle::default();
        let now = Instant::now();
        let near = |_: &RecordKey| servers[..2].to_vec();
        let first = record(1, 1, now);
        round(&mut trickle, &first, &servers[..1], &servers[..1], now);
        assert_eq!(trickle.to(&servers[0], near, false, now), []);
        // It began anew. What did not reach it then it misses when it is there again, whatever it took before.
        let given = trickle.to(&servers[0], near, true, now);
        assert_eq!(records(&given), [first]);
        assert_eq!(trickle.to(&servers[0], near, true, now), [], "under way");
        let came = end(&mut trickle, &given[0], servers[0], false, now);
        assert_eq!(came, [servers[0]]);
        let given = trickle.to(&servers[0], near, false, now);
        assert_eq!(given.len(), 1);
        assert_eq!(end(&mut trickle, &given[0], servers[0], true, now), []);
        assert_eq!(trickle.to(&servers[0], near, false, now), []);
        // One that was not there, and one that is too far away.
        assert_eq!(trickle.to(&servers[1], near, false, now).len(), 1);
        assert_eq!(trickle.to(&servers[2], near, false, now), []);
        assert_eq!(trickle.next(near, now), None);
    }

    #[test]
    fn servers_that_a_walk_found_are_offered_it_once() {
        let servers = servers(4);
        let mut trickle = Trickle::default();
        let now = Instant::now();
        let all = |_: &RecordKey| servers.clone();
        let first = record(1, 1, now);
        let offer = round(&mut trickle, &first, &servers[..1], &servers[..1], now);
        // One connected while they were looked for.
        assert_eq!(trickle.to(&servers[1], all, false, now).len(), 1);
        let found = trickle.extend(&offer.key, offer.number, servers.clone());
        assert_eq!(found, servers[2..]);
        assert_eq!(trickle.next(all, now), None);
        // What is older by now is given to nobody.
        round(&mut trickle, &record(1, 2, now), &[], &[], now);
        let found = trickle.extend(&offer.key, offer.number, servers.clone());
        assert_eq!(found, []);
    }

    #[test]
    fn who_lacks_several_records_has_them_at_once_and_nobody_has_one_twice() {
        let servers = servers(3);
        let mut trickle = Trickle::default();
        let now = Instant::now();
        let some = &servers[..1];
        round(&mut trickle, &record(1, 1, now), some, some, now);
        round(&mut trickle, &record(2, 1, now), &[], &[], now);
        let (mut all, mut connections) = (Vec::new(), 0);
        while let Some((server, given)) = trickle.next(|_| servers.clone(), now) {
            let records = records(&given).into_iter();
            all.extend(records.map(|record| (server, record.key)));
            connections += 1;
            assert!(connections < 10);
        }
        let once: BTreeSet<_> = all.iter().map(|(s, k)| (*s, k.to_vec())).collect();
        assert_eq!((all.len(), once.len()), (5, 5));
        assert_eq!(connections, 3);
    }

    #[test]
    fn what_is_over_is_given_to_nobody() {
        let servers = servers(1);
        let mut trickle = Trickle::default();
        let now = Instant::now();
        let all = |_: &RecordKey| servers.clone();
        round(&mut trickle, &record(1, 1, now), &[], &[], now);
        round(&mut trickle, &record(2, 1, now), &[], &[], now);
        trickle.keep_only(&[record(2, 1, now).key]);
        let (_, given) = trickle.next(all, now).unwrap();
        assert_eq!(records(&given), [record(2, 1, now)]);
        round(&mut trickle, &record(3, 1, now), &[], &[], now);
        assert_eq!(trickle.next(all, now + LIFE), None);
    }
}
