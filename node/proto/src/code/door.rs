//! The host's side: the code that is shown, one try at a time, and what wrong tries lead to.
//!
//! A try counts as wrong as soon as the host has answered it with its half of the exchange, unless it then proves the key:
//! who goes away, is too slow or shows something else has used it up. Three wrong tries make a new code and a pause that
//! grows from code to code. Whoever tried wrong three times waits for a time of its own, so one source that does not stop
//! costs others no more than its first three tries.

use std::{
    collections::VecDeque,
    fmt,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use kanpachi_common::{
    NodeId, OrgId,
    wire::{
        code::{CodeRefusal, CodeReply, CodeRequest},
        negotiate,
    },
};

use super::{
    Code,
    exchange::{self, Ends, Keys},
};
use crate::tunnel::Entropy;

/// Wrong tries that a code stands.
pub const TRIES: u8 = 3;
/// A try takes as long as two messages; a person has typed the code before it begins.
pub const TRY_LIMIT: Duration = Duration::from_secs(3);
/// Whoever comes while somebody else tries is asked to come again after this.
const BUSY: Duration = Duration::from_millis(300);
/// Pause after the first code that was used up by wrong tries; each further one doubles it.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The same for one source that does not stop.
const SOURCE_PAUSE: Duration = Duration::from_secs(4);
const SOURCE_PAUSE_MAX: Duration = Duration::from_secs(600);
/// After so long without a wrong try all is forgotten.
const FORGET: Duration = Duration::from_secs(900);
/// Sources remembered at the most; the one that has waited longest makes room.
const MAX_SOURCES: usize = 64;

/// Names one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TryId(u64);

/// What happened, besides answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Too many tries were wrong: show this code. The last of them came from here.
    NewCode(Code, IpAddr),
}

/// The code was right. Make an invite and seal it.
pub struct Granted(Keys);

impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Granted(…)")
    }
}

impl Granted {
    /// The last message: the link, sealed, and the proof that the host knows the code.
    #[must_use]
    pub fn seal(&self, link: &str) -> CodeReply {
        CodeReply::Invite {
            tag: self.0.host_tag(),
            sealed: self.0.seal(link.as_bytes()),
        }
    }
}

/// See the module.
pub struct Door {
    org: OrgId,
    host: NodeId,
    entropy: Entropy,
    code: Code,
    /// Wrong tries of this code.
    wrong: u8,
    /// Codes used up by wrong tries, lately.
    used_up: u32,
    /// Nobody may try before this.
    open_from: Instant,
    last_wrong: Instant,
    current: Option<Current>,
    tries: u64,
    sources: Vec<Source>,
    events: VecDeque<Event>,
}

struct Current {
    id: TryId,
    from: IpAddr,
    keys: Keys,
    deadline: Instant,
}

/// Somebody who tried wrong.
struct Source {
    who: IpAddr,
    wrong: u32,
    last: Instant,
    open_from: Instant,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("wrong", &self.wrong)
            .field("used_up", &self.used_up)
            .field("busy", &self.current.is_some())
            .field("sources", &self.sources.len())
            .finish_non_exhaustive()
    }
}

impl Door {
    /// A door with a first code. `host` is the libp2p identity that the tries arrive at.
    #[must_use]
    pub fn new(org: OrgId, host: NodeId, seed: [u8; 32], now: Instant) -> Self {
        let mut entropy = Entropy::new(seed);
        let code = Code::from_random(&entropy.draw());
        Self {
            org,
            host,
            entropy,
            code,
            wrong: 0,
            used_up: 0,
            open_from: now,
            last_wrong: now,
            current: None,
            tries: 0,
            sources: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// The code to show.
    #[must_use]
    pub const fn code(&self) -> &Code {
        &self.code
    }

    /// Takes the first message of a try, from this address and this libp2p identity; the answer goes back. Then comes
    /// [`Self::handle_confirm`] or [`Self::handle_gone`].
    ///
    /// # Errors
    /// What to answer instead; the stream ends then.
    pub fn handle_start(
        &mut self,
        from: IpAddr,
        joiner: NodeId,
        request: &CodeRequest,
        now: Instant,
    ) -> Result<(TryId, CodeReply), CodeRefusal> {
        self.handle_timeout(now);
        let CodeRequest::Start {
            min_version,
            max_version,
            org,
            element,
        } = request
        else {
            return Err(CodeRefusal::Malformed);
        };
        negotiate(*min_version, *max_version).ok_or(CodeRefusal::Version)?;
        if *org != self.org {
            return Err(CodeRefusal::Organisation);
        }
        self.may_try(from, now)?;
        let ends = Ends {
            org: self.org,
            joiner,
            host: self.host,
        };
        let (half, own) = exchange::host(&self.code, &ends, *self.entropy.draw());
        // Nothing was answered yet: what is no element costs no try.
        let keys = half.finish(element).ok_or(CodeRefusal::Malformed)?;
        self.tries += 1;
        let id = TryId(self.tries);
        self.current = Some(Current {
            id,
            from,
            keys,
            deadline: now + TRY_LIMIT,
        });
        Ok((id, CodeReply::Element(own)))
    }

    fn may_try(&self, from: IpAddr, now: Instant) -> Result<(), CodeRefusal> {
        let who = whose(from);
        let source = self.sources.iter().find(|s| s.who == who);
        let open_from = source.map_or(self.open_from, |s| s.open_from.max(self.open_from));
        if now < open_from {
            return Err(later(open_from - now));
        }
        match &self.current {
            Some(_) => Err(later(BUSY)),
            None => Ok(()),
        }
    }

    /// Takes the second message of a try.
    ///
    /// # Errors
    /// What to answer instead; the stream ends then.
    pub fn handle_confirm(
        &mut self,
        id: TryId,
        request: &CodeRequest,
        now: Instant,
    ) -> Result<Granted, CodeRefusal> {
        self.handle_timeout(now);
        let Some(current) = self.current.take_if(|c| c.id == id) else {
            // It took too long, and was counted then.
            return Err(self.wrong_answer());
        };
        match request {
            CodeRequest::Confirm(tag) if current.keys.is_joiner(tag) => {
                let who = whose(current.from);
                self.sources.retain(|s| s.who != who);
                Ok(Granted(current.keys))
            }
            _ => {
                self.count_wrong(current.from, now);
                Err(self.wrong_answer())
            }
        }
    }

    /// The stream of a try ended before its second message.
    pub fn handle_gone(&mut self, id: TryId, now: Instant) {
        self.handle_timeout(now);
        if let Some(current) = self.current.take_if(|c| c.id == id) {
            self.count_wrong(current.from, now);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(current) = self.current.take_if(|c| now >= c.deadline) {
            self.count_wrong(current.from, now);
        }
        if now >= self.last_wrong + FORGET {
            self.used_up = 0;
            self.sources.clear();
        }
    }

    /// When to call [`Self::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.current.as_ref().map(|c| c.deadline)
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn wrong_answer(&self) -> CodeRefusal {
        // Right after a new code was made, the old one has nothing left.
        let left = if self.wrong == 0 {
            0
        } else {
            TRIES - self.wrong
        };
        CodeRefusal::Wrong { left }
    }

    fn count_wrong(&mut self, from: IpAddr, now: Instant) {
        self.last_wrong = now;
        self.count_source(from, now);
        self.wrong += 1;
        if self.wrong < TRIES {
            return;
        }
        self.code = Code::from_random(&self.entropy.draw());
        self.wrong = 0;
        self.open_from = now + doubled(PAUSE, self.used_up, PAUSE_MAX);
        self.used_up = self.used_up.saturating_add(1);
        // Only the newest code is worth showing.
        self.events.clear();
        self.events
            .push_back(Event::NewCode(self.code.clone(), from));
    }

    fn count_source(&mut self, from: IpAddr, now: Instant) {
        let who = whose(from);
        let wrong = match self.sources.iter().position(|s| s.who == who) {
            Some(at) => self.sources.swap_remove(at).wrong,
            None => 0,
        };
        if self.sources.len() >= MAX_SOURCES
            && let Some(oldest) = (0..self.sources.len()).min_by_key(|i| self.sources[*i].last)
        {
            self.sources.swap_remove(oldest);
        }
        let wrong = wrong.saturating_add(1);
        let open_from = match wrong.checked_sub(u32::from(TRIES)) {
            Some(more) => now + doubled(SOURCE_PAUSE, more, SOURCE_PAUSE_MAX),
            None => now,
        };
        self.sources.push(Source {
            who,
            wrong,
            last: now,
            open_from,
        });
    }
}

/// `first` doubled `times` times, at the most `max`.
fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(max)
}

fn later(wait: Duration) -> CodeRefusal {
    CodeRefusal::Later {
        ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1),
    }
}

/// Who counts as one: an IPv4 address, or a network of IPv6, since a machine there has as many addresses as it likes.
fn whose(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}
