//! Records of this node that are not new: who is to have them next. Servers get them one by one, whichever had them the longest
//! ago first.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::kad::{Record, RecordKey};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Trickle(HashMap<RecordKey, Round>);

#[derive(Debug)]
struct Round {
    record: Record,
    /// When it is not believed any more. `record` has a time of the kernel's, which does not know of sleeps.
    end: Instant,
    number: u64,
    /// Of which round a server took the value last, and when.
    taken: HashMap<PeerId, (u64, Instant)>,
}

impl Round {
    /// When a server took an older value, if it lacks this one; `None` for never.
    fn lacks(&self, server: &PeerId) -> Option<Option<Instant>> {
        match self.taken.get(server) {
            Some((number, _)) if *number == self.number => None,
            taken => Some(taken.map(|(_, at)| *at)),
        }
    }
}

impl Trickle {
    /// A record goes out, and is believed for so long.
    pub(super) fn start(&mut self, record: &Record, life: Duration, now: Instant) {
        let round = (self.0.entry(record.key.clone())).or_insert_with(|| Round {
            record: record.clone(),
            end: now,
            number: 0,
            taken: HashMap::new(),
        });
        (round.record, round.end) = (record.clone(), now + life);
        round.number += 1;
        // Whoever took one before that lacks it by now.
        (round.taken).retain(|_, (_, at)| now < *at + life);
    }

    /// Servers took it.
    pub(super) fn note(&mut self, key: &RecordKey, servers: &[PeerId], now: Instant) {
        if let Some(round) = self.0.get_mut(key) {
            let has = (round.number, now);
            round.taken.extend(servers.iter().map(|peer| (*peer, has)));
        }
    }

    /// Nothing is under other keys any more.
    pub(super) fn keep_only(&mut self, keys: &[RecordKey]) {
        self.0.retain(|key, _| keys.contains(key));
    }

    /// The next server, and what it is given, which counts as taken. `nearest` says which servers are to have a record.
    pub(super) fn next(
        &mut self,
        mut nearest: impl FnMut(&RecordKey) -> Vec<PeerId>,
        now: Instant,
    ) -> Option<(PeerId, Vec<Record>)> {
        self.0.retain(|_, round| now < round.end);
        let mut lacking: HashMap<PeerId, (Option<Instant>, Vec<RecordKey>)> = HashMap::new();
        for (key, round) in &self.0 {
            for server in nearest(key) {
                if let Some(taken) = round.lacks(&server) {
                    let (oldest, keys) = lacking.entry(server).or_insert((taken, Vec::new()));
                    *oldest = (*oldest).min(taken);
                    keys.push(key.clone());
                }
            }
        }
        let next = (lacking.into_iter()).min_by_key(|(peer, (oldest, _))| (*oldest, *peer));
        let (server, (_, keys)) = next?;
        let records = keys.iter().filter_map(|key| self.0.get(key));
        let records = records.map(|round| round.record.clone()).collect();
        for key in &keys {
            self.note(key, &[server], now);
        }
        Some((server, records))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PACE: Duration = Duration::from_secs(150);
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

    #[test]
    fn all_have_the_newest_once_and_rounds_that_overlap_leave_nobody_out() {
        let servers = servers(20);
        let mut trickle = Trickle::default();
        let mut now = Instant::now();
        let key = record(1, 0, now).key;
        trickle.start(&record(1, 0, now), LIFE, now);
        trickle.note(&key, &servers, now);
        let mut last: HashMap<PeerId, Instant> = servers.iter().map(|s| (*s, now)).collect();
        for round in 1..30 {
            // A round comes before the last one is through: every fourth server has it at once.
            trickle.start(&record(1, round, now), LIFE, now);
            trickle.note(&key, &servers[..5], now);
            last.extend(servers[..5].iter().map(|server| (*server, now)));
            let mut given = BTreeSet::new();
            for _ in 0..8 {
                now += PACE;
                let (server, records) = trickle.next(|_| servers.clone(), now).unwrap();
                assert_eq!(records[0].value, [round]);
                assert!(!servers[..5].contains(&server) && given.insert(server));
                last.insert(server, now);
            }
            let longest = last.values().map(|at| now - *at).max().unwrap();
            assert!(longest <= PACE * 16, "{longest:?}");
        }
    }

    #[test]
    fn who_did_not_take_it_is_the_next() {
        let servers = servers(5);
        let mut trickle = Trickle::default();
        let mut now = Instant::now();
        let first = record(1, 1, now);
        trickle.start(&first, LIFE, now);
        trickle.note(&first.key, &servers, now);
        now += PACE;
        trickle.start(&record(1, 2, now), LIFE, now);
        trickle.note(&first.key, &servers[..4], now);
        let next = trickle.next(|_| servers.clone(), now + PACE);
        assert_eq!(next.map(|(server, _)| server), Some(servers[4]));
        assert_eq!(trickle.next(|_| servers.clone(), now + PACE), None);
    }

    #[test]
    fn who_lacks_several_records_has_them_at_once_and_nobody_has_one_twice() {
        let servers = servers(3);
        let mut trickle = Trickle::default();
        let now = Instant::now();
        trickle.start(&record(1, 1, now), LIFE, now);
        trickle.note(&record(1, 1, now).key, &servers[..1], now);
        trickle.start(&record(2, 1, now), LIFE, now);
        let (mut given, mut connections) = (Vec::new(), 0);
        while let Some((server, records)) = trickle.next(|_| servers.clone(), now) {
            given.extend(records.into_iter().map(|record| (server, record.key)));
            connections += 1;
            assert!(connections < 10);
        }
        let once: BTreeSet<_> = given.iter().map(|(s, k)| (*s, k.to_vec())).collect();
        assert_eq!((given.len(), once.len()), (5, 5));
        assert_eq!(connections, 3);
    }

    #[test]
    fn what_is_over_is_given_to_nobody() {
        let servers = servers(1);
        let mut trickle = Trickle::default();
        let now = Instant::now();
        trickle.start(&record(1, 1, now), LIFE, now);
        trickle.start(&record(2, 1, now), LIFE, now);
        trickle.keep_only(&[record(2, 1, now).key]);
        let (_, records) = trickle.next(|_| servers.clone(), now).unwrap();
        assert_eq!(records, [record(2, 1, now)]);
        trickle.start(&record(3, 1, now), LIFE, now);
        assert_eq!(trickle.next(|_| servers.clone(), now + LIFE), None);
    }
}
