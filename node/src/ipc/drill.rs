//! `POST /v1/drill`: what a drill tells while it is on, and what it found. The daemon only cuts itself off; who still
//! answers is asked here, through the same [`Control`] as everything else.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{Stream, future::join_all, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    api::{CoordinatorState, Freshness, Member, Path, Status},
    control::{Control, Drill, Pong},
    error::{ApiError, code},
};

/// Two clocks that were started one after the other may differ by this.
const MOMENT: Duration = Duration::from_millis(500);
/// Seconds that a drill may last.
const LENGTHS: std::ops::RangeInclusive<u64> = 5..=3600;
/// Members asked at the most; a drill is no flood.
const MAX_PEERS: usize = 32;
/// Between two rounds.
const PACE: Duration = Duration::from_secs(2);
/// For an answer. The first round may have to set tunnels up.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_millis(1500);
/// For being connected again afterwards, and how often that is looked at.
const RETURN: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(100);
/// What a node cannot do without a coordinator.
const WAITS: [&str; 4] = ["new_members", "invites", "names", "network_changes"];

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillRequest {
    /// How long, 5 to 3600.
    pub seconds: u64,
}

/// `POST /v1/drill-end`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillEnded {
    /// Whether a drill was on.
    pub ended: bool,
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum DrillReply {
    /// The node has cut itself off.
    Begin(DrillBegin),
    /// All members were asked once more.
    Round(DrillRound),
    /// It is over, and the last line.
    Report(DrillReport),
}

/// See [`DrillReply::Begin`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillBegin {
    /// How long it will last.
    pub seconds: u64,
    /// The coordinator that was connected, or was tried last.
    pub coordinator: Option<String>,
    /// Members that are asked.
    pub peers: u32,
    /// Of these, how many answered just before.
    pub answered: u32,
}

/// See [`DrillReply::Round`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillRound {
    /// Seconds since it began.
    pub elapsed_s: f64,
    /// Members that are asked.
    pub peers: u32,
    /// Of these, how many answered.
    pub answered: u32,
    /// What the node says of its coordinator.
    pub coordinator: CoordinatorState,
}

/// See [`DrillReply::Report`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    /// How long it lasted.
    pub seconds: f64,
    /// It was ended before its time.
    pub early: bool,
    /// After how many seconds the node said that the coordinator is unreachable; null if it never did.
    pub unreachable_after_s: Option<f64>,
    /// After how many seconds it was connected again; null when it was not within 20 s.
    pub reconnected_after_s: Option<f64>,
    /// The members that were asked.
    pub peers: Vec<DrillPeer>,
    /// Members that were not asked, since there are so many.
    pub not_asked: u32,
    /// The networks, whose rosters hold without a coordinator.
    pub networks: Vec<DrillNetwork>,
    /// What waits for a coordinator: `new_members`, `invites`, `names`, `network_changes`; more may come.
    pub waits: Vec<String>,
}

/// One member in a drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillPeer {
    /// Its name.
    pub name: String,
    /// Its id.
    pub node_id: String,
    /// Round trip just before, in milliseconds; null is no answer.
    pub before_ms: Option<f64>,
    /// Pings during the drill.
    pub asked: u32,
    /// Of these, how many were answered.
    pub answered: u32,
    /// Last round trip during the drill.
    pub during_ms: Option<f64>,
    /// Longest time without an answer, in seconds.
    pub silent_s: f64,
    /// What the answers came by last.
    pub path: Option<Path>,
    /// Where its addresses are known from without a server: `lan` (mDNS), `member` (it told), `cache` (the disk); more
    /// may come.
    pub found_by: Vec<String>,
}

/// One network in a drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillNetwork {
    /// Its name.
    pub name: String,
    /// Epoch of the roster held.
    pub epoch: u64,
    /// Its age in seconds.
    pub age_s: Option<u64>,
    /// What that means.
    pub freshness: Option<Freshness>,
    /// From then on it opens no new session; null is never.
    pub hard_expires_at: Option<Timestamp>,
}

/// A drill under way.
pub(super) struct Exercise {
    control: Arc<dyn Control>,
    drill: Drill,
    length: Duration,
    start: Instant,
    next: Instant,
    peers: Vec<Watched>,
    not_asked: u32,
    unreachable_after: Option<Duration>,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Begin,
    Rounds,
    Over,
}

/// A member and what it did.
struct Watched {
    member: Member,
    before: Option<Pong>,
    last: Option<Pong>,
    asked: u32,
    answered: u32,
    heard_at: Instant,
    silent: Duration,
}

impl Exercise {
    /// Asks everybody once, then cuts the node off.
    pub(super) async fn begin(
        control: Arc<dyn Control>,
        request: &DrillRequest,
    ) -> Result<Self, ApiError> {
        if !LENGTHS.contains(&request.seconds) {
            return Err(ApiError::usage(format_args!(
                "a drill lasts {} to {} seconds, not {}",
                LENGTHS.start(),
                LENGTHS.end(),
                request.seconds
            )));
        }
        let status = control.status().await?;
        if status.networks.is_empty() {
            return Err(ApiError::refused(
                code::NOT_JOINED,
                "this machine is in no network yet",
            ));
        }
        let mut members = members(&status);
        let not_asked = members.len().saturating_sub(MAX_PEERS);
        members.truncate(MAX_PEERS);
        let pongs = ping_all(&*control, &members, FIRST_ANSWER).await;
        let length = Duration::from_secs(request.seconds);
        let drill = control.drill(length).await?;
        let start = Instant::now();
        let watched = members
            .into_iter()
            .zip(pongs)
            .map(|(member, before)| Watched {
                member,
                before,
                last: None,
                asked: 0,
                answered: 0,
                heard_at: start,
                silent: Duration::ZERO,
            });
        Ok(Self {
            control,
            drill,
            length,
            start,
            next: start,
            peers: watched.collect(),
            not_asked: count(not_asked),
            unreachable_after: None,
            phase: Phase::Begin,
        })
    }

    /// What there is to tell. Dropped before its end, it ends the drill.
    pub(super) fn lines(self) -> impl Stream<Item = Result<DrillReply, ApiError>> + Send {
        stream::unfold(Some(self), async |exercise| {
            let mut exercise = exercise?;
            match exercise.step().await {
                Ok(reply @ DrillReply::Report(_)) => Some((Ok(reply), None)),
                Ok(reply) => Some((Ok(reply), Some(exercise))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn step(&mut self) -> Result<DrillReply, ApiError> {
        match self.phase {
            Phase::Begin => {
                self.phase = Phase::Rounds;
                Ok(DrillReply::Begin(DrillBegin {
                    seconds: self.length.as_secs(),
                    coordinator: self.drill.coordinator.clone(),
                    peers: count(self.peers.len()),
                    answered: count(self.peers.iter().filter(|p| p.before.is_some()).count()),
                }))
            }
            Phase::Rounds => match self.round().await? {
                Some(round) => Ok(DrillReply::Round(round)),
                None => {
                    self.phase = Phase::Over;
                    Ok(DrillReply::Report(self.report().await?))
                }
            },
            Phase::Over => Err(ApiError::failed(code::FAILED, "the drill is over")),
        }
    }

    /// Asks everybody once more; `None` when the drill ended meanwhile.
    async fn round(&mut self) -> Result<Option<DrillRound>, ApiError> {
        let over = self.drill.over.clone();
        let pongs = over.run_until_cancelled(async {
            sleep_until(self.next).await;
            self.next = Instant::now() + PACE;
            let members: Vec<Member> = self.peers.iter().map(|p| p.member.clone()).collect();
            ping_all(&*self.control, &members, ANSWER).await
        });
        let Some(pongs) = pongs.await else {
            return Ok(None);
        };
        let now = Instant::now();
        let answered = pongs.iter().filter(|p| p.is_some()).count();
        for (peer, pong) in self.peers.iter_mut().zip(pongs) {
            peer.note(pong, now);
        }
        let coordinator = self.control.status().await?.coordinator.state;
        if coordinator == CoordinatorState::Unreachable {
            self.unreachable_after.get_or_insert(now - self.start);
        }
        Ok(Some(DrillRound {
            elapsed_s: (now - self.start).as_secs_f64(),
            peers: count(self.peers.len()),
            answered: count(answered),
            coordinator,
        }))
    }

    async fn report(&self) -> Result<DrillReport, ApiError> {
        let ended = Instant::now();
        let lasted = ended - self.start;
        let connected = async {
            loop {
                let status = self.control.status().await?;
                if status.coordinator.state == CoordinatorState::Connected {
                    return Ok::<_, ApiError>(ended.elapsed());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let reconnected = timeout_at(ended + RETURN, connected).await;
        let status = self.control.status().await?;
        Ok(DrillReport {
            seconds: lasted.as_secs_f64(),
            // The end of its time is noticed a moment later.
            // The daemon counted from a moment earlier.
            early: lasted + MOMENT < self.length,
            unreachable_after_s: self.unreachable_after.map(|d| d.as_secs_f64()),
            reconnected_after_s: reconnected.ok().transpose()?.map(|d| d.as_secs_f64()),
            peers: self
                .peers
                .iter()
                .map(|p| p.told(&self.drill.sources))
                .collect(),
            not_asked: self.not_asked,
            networks: status.networks.iter().map(network).collect(),
            waits: WAITS.map(str::to_owned).to_vec(),
        })
    }
}

impl Watched {
    fn note(&mut self, pong: Option<Pong>, now: Instant) {
        self.asked += 1;
        self.silent = self.silent.max(now - self.heard_at);
        if pong.is_some() {
            self.answered += 1;
            self.heard_at = now;
            self.last = pong;
        }
    }

    fn told(&self, sources: &BTreeMap<String, Vec<String>>) -> DrillPeer {
        let ms = |pong: &Option<Pong>| pong.as_ref().map(|p| p.rtt.as_secs_f64() * 1e3);
        DrillPeer {
            name: self.member.name.clone(),
            node_id: self.member.node_id.clone(),
            before_ms: ms(&self.before),
            asked: self.asked,
            answered: self.answered,
            during_ms: ms(&self.last),
            silent_s: self.silent.as_secs_f64(),
            path: self.last.as_ref().map(|p| p.path),
            found_by: sources
                .get(&self.member.node_id)
                .cloned()
                .unwrap_or_default(),
        }
    }
}

/// Everybody in a network that this node is there in, once.
fn members(status: &Status) -> Vec<Member> {
    let there = status.networks.iter().filter(|n| n.online);
    let members = there.flat_map(|n| &n.members).filter(|m| !m.waiting);
    let once: BTreeMap<&str, &Member> = members.map(|m| (m.node_id.as_str(), m)).collect();
    let mut members: Vec<Member> = once.into_values().cloned().collect();
    // Whoever is there is asked first.
    members.sort_by_key(|m| (!m.online, m.name.clone()));
    members
}

fn network(network: &super::api::Network) -> DrillNetwork {
    DrillNetwork {
        name: network.name.clone(),
        epoch: network.epoch,
        age_s: network.age_s,
        freshness: network.freshness,
        hard_expires_at: network.hard_expires_at,
    }
}

/// One ping each, at once. Whoever cannot be asked does not answer.
async fn ping_all(
    control: &dyn Control,
    members: &[Member],
    patience: Duration,
) -> Vec<Option<Pong>> {
    let pings = members.iter().map(|m| control.ping(&m.node_id, patience));
    let pongs = join_all(pings).await;
    pongs.into_iter().map(|pong| pong.ok().flatten()).collect()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
