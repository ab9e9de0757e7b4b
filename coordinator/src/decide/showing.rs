//! Members that know more than the store: they are asked to show it, and nothing is signed until they have.
//!
//! What a node says in its hello proves nothing. Whoever claims a roster that the store has never signed is asked for it
//! page by page; the first page carries the head, and only our own signature on it lets the rest in.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use kanpachi_common::{
    NetworkId, NodeId, Verified,
    org::{Directory, Manifest},
    roster::{Caps, Head, Page},
    secret::NetworkSecret,
    wire::{
        control::{Nonce, ServerMessage, codes},
        membership::Suspended,
        showing::{ShowRoster, Shown},
    },
};

use super::{
    Config, Core, Event, Intent, IntentId, Now, SessionId,
    asked::Asked,
    limits::{Keyed, Meter, Rate},
    requests::{Purpose, millis},
    session::{CHATTER, Phase, Session},
};
use crate::{
    store::{Adopt, Adopted, BringSuspends, IN_RECOVERY, Seen},
    turns::Turns,
};

/// A coordinator that starts hears its members for so long before it signs: by then whoever is awake has dialled.
pub const COMPARE_FOR: Duration = Duration::from_secs(10);
/// A roster that is not here after this time is waited for no longer.
const SHOW_WITHIN: Duration = Duration::from_secs(10);
/// Rosters that are collected from members at once, one of each session: each is a few MiB in memory at the most.
const MAX_SHOWS: usize = 4;
/// And from strangers. Keys cost nothing, so theirs are places of their own. Whoever came after the backup is one of them.
const MAX_SHOWS_OF_STRANGERS: usize = 1;
/// Claims of one session about networks that it is not in; about its own it has one for each.
const MAX_CLAIMS: usize = 16;
/// How often one node may keep the others waiting by a claim.
const DOUBTS: Rate = Rate::new(1, Duration::from_secs(120));
/// And all nodes together: however many make claims, signing goes on between two of them. The same for those whose last claim
/// came to nothing, so that they use up nothing of what the others have.
const DOUBTS_OF_ALL: Rate = Rate::new(1, Duration::from_secs(120));

/// What is being compared with the members.
#[derive(Debug)]
pub(super) struct Comparing {
    /// Whose signature proves something.
    manifest: Option<Verified<Manifest>>,
    /// Claims that nobody was asked about yet: of members, and of strangers, who have no influence on whose turn it is.
    suspects: Turns<SessionId>,
    strangers: Turns<SessionId>,
    /// Claims that somebody was asked about a short while ago.
    asked: Asked,
    /// Rosters that are on their way.
    shows: BTreeMap<SessionId, Show>,
    /// Nothing is signed before, unless a member of each of these networks agrees with the store.
    window: Option<Instant>,
    unsure: BTreeSet<NetworkId>,
    /// Nothing is signed now.
    holds: bool,
    /// What would be signed.
    held: VecDeque<(IntentId, Intent)>,
    doubts: Keyed<NodeId>,
    doubts_of_all: Meter,
    doubts_of_doubtful: Meter,
    /// Members that were waited for and have shown nothing new since.
    doubtful: BTreeSet<NodeId>,
    /// Sessions whose newer tunnel key is not in the rosters yet.
    keys: BTreeSet<SessionId>,
}

/// A roster on its way from a node.
#[derive(Debug)]
struct Show {
    network: NetworkId,
    asked: Instant,
    /// Nothing is signed until it is here.
    holds: bool,
    /// It takes one of the places of strangers.
    stranger: bool,
    head: Option<Verified<Head>>,
    secret: Option<NetworkSecret>,
    pages: Vec<Page>,
}

impl Show {
    fn is_pending(&self, now: Instant) -> bool {
        now < self.asked + SHOW_WITHIN
    }
}

impl Comparing {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        Self {
            // Without it nothing is believed; the organisation was opened with it, so it verifies.
            manifest: Manifest::verify(&config.manifest, &config.org).ok(),
            suspects: Turns::new(),
            strangers: Turns::new(),
            asked: Asked::default(),
            shows: BTreeMap::new(),
            window: None,
            unsure: BTreeSet::new(),
            holds: false,
            held: VecDeque::new(),
            doubts: Keyed::new(DOUBTS, now),
            doubts_of_all: Meter::new(now),
            doubts_of_doubtful: Meter::new(now),
            doubtful: BTreeSet::new(),
            keys: BTreeSet::new(),
        }
    }

    /// May anything be signed?
    pub(super) const fn is_over(&self) -> bool {
        !self.holds
    }

    /// Keeps an intent that signs, while nothing is signed.
    pub(super) fn hold(&mut self, id: IntentId, intent: Intent) {
        self.held.push_back((id, intent));
    }

    /// Is there something that waits for time to pass?
    pub(super) fn waits(&self) -> bool {
        self.holds
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        self.suspects.forget(&session);
        self.strangers.forget(&session);
        self.asked.forget(session);
        self.shows.remove(&session);
        self.keys.remove(&session);
    }

    /// Claims that are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.asked.len() + self.shows.len()
    }

    /// Does a claim of this node keep the others waiting?
    fn may_hold(&mut self, node: NodeId, now: Instant) -> bool {
        if self.doubts.take(node, now).is_err() {
            return false;
        }
        let all = match self.doubtful.contains(&node) {
            true => &mut self.doubts_of_doubtful,
            false => &mut self.doubts_of_all,
        };
        let holds = all.take(DOUBTS_OF_ALL, now).is_ok();
        if holds {
            // Until it has shown something.
            self.doubtful.insert(node);
        } else {
            self.doubts.give_back(node);
        }
        holds
    }
}

impl Core {
    /// The store may be out of an old backup, and nobody could be asked about these networks: their members are heard
    /// before anything is signed.
    pub fn handle_unsure(&mut self, networks: BTreeSet<NetworkId>, now: Now) {
        self.comparing.unsure = networks;
        self.comparing.window = Some(now.at + COMPARE_FOR);
        self.comparing.holds = true;
    }

    /// A node claims a roster that the store has not.
    pub(super) fn suspect(&mut self, id: SessionId, network: NetworkId) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let (node, limit) = (session.node, MAX_CLAIMS + session.networks.len());
        let member = session.is_in_something();
        let comparing = &mut self.comparing;
        let waiting = comparing.suspects.of(&id) + comparing.strangers.of(&id);
        let open = waiting + comparing.asked.of(id);
        if open < limit && !comparing.asked.has(id, network) {
            let suspects = match member {
                true => &mut comparing.suspects,
                false => &mut comparing.strangers,
            };
            suspects.insert(id, network);
            self.event(Event::ClaimsNewer(node, network));
        }
    }

    /// A member holds exactly what is stored of these networks: of them the store is not old. What runs on this machine
    /// came out of the same backup and says nothing.
    pub(super) fn agreed(&mut self, id: SessionId, networks: &[NetworkId]) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        if self.comparing.unsure.is_empty() || session.remote.ip.is_some_and(|ip| self.is_here(ip))
        {
            return;
        }
        let unsure = &mut self.comparing.unsure;
        for network in networks {
            if session.networks.contains_key(network) {
                unsure.remove(network);
            }
        }
        if unsure.is_empty() {
            self.comparing.window = None;
        }
    }

    /// Is this an address of the coordinator's own machine, as far as it knows: loopback, or one that it gives out?
    fn is_here(&self, ip: IpAddr) -> bool {
        let manifest = self.comparing.manifest.as_ref();
        let directory = manifest.and_then(|m| Directory::verify(&self.config.directory, m).ok());
        let listed = directory.iter().flat_map(|d| &d.coordinators);
        let listed = listed.flat_map(|server| &server.addresses);
        let given = listed.chain(&self.config.addresses);
        let mut given = given.filter_map(|address| address.host.parse::<IpAddr>().ok());
        ip.is_loopback() || given.any(|given| given.to_canonical() == ip.to_canonical())
    }

    /// The tunnel key of a session goes into its rosters when something may be signed again.
    pub(super) fn key_waits(&mut self, id: SessionId) {
        self.comparing.keys.insert(id);
    }

    /// Asks whoever claims something for a proof, and lets go of what was held when there is nothing to wait for.
    pub(super) fn compare(&mut self, now: Now) {
        let comparing = &mut self.comparing;
        comparing.asked.expire(now.at);
        comparing.shows.retain(|_, show| show.is_pending(now.at));
        while let Some((id, network, stranger)) = self.next_suspect(now) {
            self.ask_to_show(id, network, stranger, now);
        }
        let window = self.comparing.window.is_some_and(|until| now.at < until);
        let holds = window || self.comparing.shows.values().any(|show| show.holds);
        if self.comparing.holds && !holds {
            self.comparing.window = None;
            self.comparing.holds = false;
            self.intents.append(&mut self.comparing.held);
            self.take_keys(now);
        }
        self.comparing.holds = holds;
    }

    /// Who is asked next, if there is room for a roster more; in a place for strangers?
    fn next_suspect(&mut self, now: Now) -> Option<(SessionId, NetworkId, bool)> {
        let sessions = &self.sessions;
        let is_member = |id: &SessionId| sessions.get(id).is_some_and(Session::is_in_something);
        let Comparing {
            shows,
            suspects,
            strangers,
            unsure,
            window,
            ..
        } = &mut self.comparing;
        let of_strangers = shows.values().filter(|show| show.stranger).count();
        let of_members = shows.len() - of_strangers;
        let free = |id: &SessionId| !shows.contains_key(id);
        let mut next = None;
        if of_members < MAX_SHOWS {
            next = suspects.next(|id| free(id) && is_member(id), |_| true);
        }
        let stranger = next.is_none();
        if stranger && of_strangers < MAX_SHOWS_OF_STRANGERS {
            // While members are heard, what strangers say of other networks can wait: of those nothing will be signed.
            let open = window.is_some_and(|until| now.at < until);
            let fits = |network: &NetworkId| !open || unsure.contains(network);
            next = strangers.next(free, fits);
        }
        next.map(|(id, network)| (id, network, stranger))
    }

    fn ask_to_show(&mut self, id: SessionId, network: NetworkId, stranger: bool, now: Now) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        // A member is waited for, though not again and again; a stranger is not, nor whoever is in nothing any more.
        let (node, member) = (session.node, session.is_in_something());
        let holds = member && self.comparing.may_hold(node, now.at);
        let show = Show {
            network,
            asked: now.at,
            holds,
            stranger,
            head: None,
            secret: None,
            pages: Vec::new(),
        };
        self.comparing.shows.insert(id, show);
        self.comparing.asked.insert(id, network, now.at);
        let message = ServerMessage::ShowRoster(ShowRoster { network });
        self.send(id, 0, &message);
    }

    /// A node shows a page of its roster.
    pub(super) fn shown(&mut self, id: SessionId, shown: Shown, now: Now) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let (node, member) = (session.node, session.is_in_something());
        let network = shown.page.network;
        let manifest = self.comparing.manifest.as_ref();
        let show = self.comparing.shows.get_mut(&id);
        let expected = |show: &&mut Show| show.network == network && show.is_pending(now.at);
        let Some(show) = show.filter(expected) else {
            // Not asked for, or too late.
            return;
        };
        let count = usize::from(shown.page.count);
        let good = show.take(shown, manifest);
        if good && show.pages.len() < count {
            return;
        }
        let show = self.comparing.shows.remove(&id).filter(|_| good);
        if let Some(intent) = show.and_then(|show| show.finish(node, member, now)) {
            self.intend(intent, Purpose::Adopt(id));
        }
    }

    /// A roster was shown.
    pub(super) fn adopted(&mut self, id: SessionId, adopted: &Adopted) {
        let by = self.sessions.get(&id).map(|s| s.node);
        if adopted.recovery && self.recovery.is_none() {
            self.recovery = Some(IN_RECOVERY.to_owned());
            self.event(Event::Recovery);
        }
        if let Some(by) = by.filter(|_| adopted.recovery || !adopted.changed.is_empty()) {
            self.comparing.doubtful.remove(&by);
        }
        for network in &adopted.changed {
            if let Some(by) = by {
                self.event(Event::Adopted(by, *network));
            }
            self.changed(*network);
        }
    }

    /// Guests whom a roster that was shown makes members: their next login finds them registered. Whoever waits for the
    /// answer to its join is one of them by that.
    pub(super) fn recognise(&mut self, came: &[NodeId]) {
        let guest = |s: &Session| s.phase == Phase::Guest && s.waiting == 0;
        for id in self.ids_of(|s| guest(s) && came.contains(&s.node)) {
            let text = "this coordinator knows this machine again; it only has to log in once more";
            self.refuse_and_close(id, codes::BUSY, text, Some(0));
        }
    }

    /// A member brought suspensions.
    pub(super) fn suspended(&mut self, id: SessionId, request: u64, said: &Suspended, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.phase != Phase::Member {
            let text = "this machine is not registered here; join with an invite first";
            return self.refuse(id, request, codes::NOT_REGISTERED, text, None);
        }
        // Each costs a look at a signature.
        if let Err(wait) = session.chatter.take(CHATTER, now.at) {
            let text = "too many requests";
            return self.refuse(id, request, codes::BUSY, text, Some(millis(wait)));
        }
        // By whoever's key: whether that is an owner's is decided where the roster is.
        let valid = |s: &kanpachi_common::Signed<_>| s.verify(&[s.key]).ok();
        let suspends: Vec<_> = said.suspends.iter().filter_map(valid).collect();
        if suspends.is_empty() {
            return self.send(id, request, &ServerMessage::Done(Nonce(request)));
        }
        let brought = BringSuspends {
            suspends,
            seed: self.random(),
            now: now.wall,
        };
        self.ask(id, Intent::Suspends(brought), Purpose::Change(id, request));
    }

    /// Tunnel keys that could not be taken at the login are taken now.
    pub(super) fn take_keys(&mut self, now: Now) {
        for id in std::mem::take(&mut self.comparing.keys) {
            let session = self.sessions.get(&id);
            let Some((node, tunnel)) = session.and_then(|s| Some((s.node, s.tunnel?))) else {
                continue;
            };
            let login = crate::store::Login {
                node,
                tunnel,
                held: vec![],
                may_sign: true,
                now: now.wall,
            };
            self.intend(Intent::Login(login), Purpose::Key(id));
        }
    }
}

impl Show {
    /// Takes the next page; false when it is not the next page of a roster that this organisation signed.
    fn take(&mut self, shown: Shown, manifest: Option<&Verified<Manifest>>) -> bool {
        let page = shown.page;
        if usize::from(page.index) != self.pages.len() || page.index >= page.count {
            return false;
        }
        match self.pages.first() {
            Some(first) if first.head != page.head || first.count != page.count => return false,
            Some(_) => {}
            None => {
                let head = manifest.and_then(|m| Head::verify(&page.head, m).ok());
                let Some(head) = head.filter(|head| head.network == page.network) else {
                    return false;
                };
                self.head = Some(head);
                self.secret = shown.secret;
            }
        }
        self.pages.push(page);
        true
    }

    /// All pages are here: the roster to take over, or the head alone when that is all that can be believed.
    fn finish(self, by: NodeId, member: bool, now: Now) -> Option<Intent> {
        let head = self.head?;
        let now = now.wall;
        let roster = Page::join(self.pages).and_then(|(_, roster)| roster.verify(head.clone()));
        let Ok(roster) = roster else {
            // The head is true whoever brings it; that a member has shown its roster is not.
            let by = Some(by).filter(|_| member);
            return Some(Intent::See(Box::new(Seen { head, by, now })));
        };
        // Only a member is let speak for the others.
        let member = roster.member(&by)?;
        if member.caps.has(Caps::PENDING) {
            return None;
        }
        Some(Intent::Adopt(Box::new(Adopt {
            roster,
            secret: self.secret,
            by,
            now,
        })))
    }
}
