//! Frames of a control session: the welcome, pings, and what is passed on.

use std::time::{Duration, Instant};

use kanpachi_common::{
    NodeId, UnixTime, Verified,
    org::{Directory, Manifest},
    wire::{
        control::{
            ClientMessage, MISSED_PINGS, Nonce, REST_MS, Refused, Resting, ServerMessage, Welcome,
            codes,
        },
        frame::Frame,
    },
};

use crate::tunnel::timers::next_beat;

use super::{
    Action, Attempt, Event, HURRY, LOOKED_AT, Live, Login, MAX_ASKED, MIN_BACKOFF, PING,
    PING_ANSWER, PING_AT_REST, Phase, Trouble, Welcomed,
};

impl Login {
    /// A frame came on the stream of an attempt.
    pub fn handle_frame(&mut self, attempt: Attempt, frame: &Frame, now: Instant) {
        match ServerMessage::from_frame(frame) {
            Ok(message) => self.handle_message(attempt, frame.id, message, now),
            Err(error) => self.handle_garbage(attempt, error.to_string(), now),
        }
    }

    /// The stream of an attempt cannot be read any further.
    pub fn handle_garbage(&mut self, attempt: Attempt, reason: String, now: Instant) {
        let address = match &self.phase {
            Phase::Live(live) if live.attempt == attempt => Some(live.address.clone()),
            _ => self.attempts.get(&attempt).map(|d| d.address.clone()),
        };
        if let Some(address) = address {
            self.drop_attempt(attempt, Trouble::Protocol { address, reason }, now);
        }
    }

    fn handle_message(&mut self, attempt: Attempt, id: u64, message: ServerMessage, now: Instant) {
        if let Phase::Live(live) = &mut self.phase
            && live.attempt == attempt
        {
            (live.unanswered, live.hurried) = (0, 0);
            live.heard = now;
            live.next_ping = match self.beat.filter(|_| live.resting) {
                Some(beat) => next_beat(beat, now),
                None => now + live.pause(),
            };
            match message {
                ServerMessage::Ping(nonce) => {
                    let frame = ClientMessage::Pong(nonce).frame(id);
                    self.actions.push_back(Action::Send { attempt, frame });
                }
                ServerMessage::Pong(_) | ServerMessage::Unknown(_) => {}
                ServerMessage::Refused(refused) if id == 0 => self.handle_dismissal(refused, now),
                ServerMessage::Welcome(_) => {
                    self.handle_garbage(attempt, "a second welcome".into(), now)
                }
                message => self.events.push_back(Event::Message { id, message }),
            }
        } else if self.attempts.contains_key(&attempt) {
            match message {
                ServerMessage::Welcome(welcome) => self.handle_welcome(attempt, *welcome, now),
                ServerMessage::Refused(refused) => self.handle_refused(attempt, refused, now),
                _ => self.handle_garbage(attempt, "it did not begin with a welcome".into(), now),
            }
        }
    }

    fn handle_welcome(&mut self, attempt: Attempt, welcome: Welcome, now: Instant) {
        let Some(dialling) = self.attempts.get(&attempt) else {
            return;
        };
        let (address, Some(server)) = (dialling.address.clone(), dialling.server) else {
            return;
        };
        let welcomed = match self.check_welcome(welcome) {
            Ok((manifest, directory, registration, time))
                if directory.coordinators.iter().any(|c| c.id == server) =>
            {
                Welcomed {
                    address: address.clone(),
                    server,
                    manifest,
                    directory,
                    registration,
                    time,
                }
            }
            Ok(_) => return self.drop_attempt(attempt, Trouble::NotACoordinator(address), now),
            Err(make) => return self.drop_attempt(attempt, make(address), now),
        };
        self.attempts.remove(&attempt);
        for other in std::mem::take(&mut self.attempts).into_keys() {
            self.actions.push_back(Action::Close(other));
        }
        self.manifest = Some(welcomed.manifest.clone());
        self.unreachable = None;
        self.last_trouble = None;
        self.backoff = MIN_BACKOFF;
        self.looked = now;
        self.phase = Phase::Live(Box::new(Live {
            attempt,
            address,
            server,
            since: now,
            next_ping: now + PING,
            heard: now,
            resting: false,
            unanswered: 0,
            hurried: 0,
            announcing: super::announce::Announcing::default(),
        }));
        self.events.push_back(Event::Welcome(Box::new(welcomed)));
    }

    #[expect(clippy::type_complexity, reason = "used once, right above")]
    fn check_welcome(
        &self,
        welcome: Welcome,
    ) -> Result<
        (
            Verified<Manifest>,
            Verified<Directory>,
            Option<kanpachi_common::wire::control::Registration>,
            UnixTime,
        ),
        Box<dyn FnOnce(kanpachi_common::org::Address) -> Trouble>,
    > {
        let protocol =
            |reason: String| -> Box<dyn FnOnce(kanpachi_common::org::Address) -> Trouble> {
                Box::new(move |address| Trouble::Protocol { address, reason })
            };
        let manifest = match Manifest::verify(&welcome.manifest, &self.org) {
            Ok(manifest) => manifest,
            Err(kanpachi_common::signed::VerifyError::UntrustedKey) => {
                return Err(Box::new(Trouble::OtherOrganisation));
            }
            Err(error) => return Err(protocol(error.to_string())),
        };
        if self
            .manifest
            .as_ref()
            .is_some_and(|known| manifest.generation < known.generation)
        {
            return Err(protocol(
                "its keys are of an older generation than those known here".into(),
            ));
        }
        let directory = Directory::verify(&welcome.directory, &manifest)
            .map_err(|e| protocol(e.to_string()))?;
        Ok((manifest, directory, welcome.registration, welcome.time))
    }

    fn handle_refused(&mut self, attempt: Attempt, refused: Refused, now: Instant) {
        let Some(dialling) = self.attempts.get(&attempt) else {
            return;
        };
        if dialling.is_held() {
            // It says nothing about the hello, which was told over another stream.
            return self.handle_failed(attempt, printable(&refused.message), now);
        }
        let address = dialling.address.clone();
        let trouble = if refused.code == codes::OTHER_ORG {
            Trouble::OtherOrganisation(address.clone())
        } else {
            Trouble::Protocol {
                address: address.clone(),
                reason: printable(&refused.message),
            }
        };
        self.asked(refused.retry_ms);
        self.events.push_back(Event::Refused { address, refused });
        self.drop_attempt(attempt, trouble, now);
    }

    /// The coordinator ends a session in words.
    fn handle_dismissal(&mut self, refused: Refused, now: Instant) {
        let Phase::Live(live) = &self.phase else {
            return;
        };
        let (attempt, address) = (live.attempt, live.address.clone());
        self.asked(refused.retry_ms);
        let reason = printable(&refused.message);
        self.events.push_back(Event::Refused {
            address: address.clone(),
            refused,
        });
        self.drop_attempt(attempt, Trouble::Protocol { address, reason }, now);
    }

    fn asked(&mut self, retry_ms: Option<u64>) {
        if let Some(ms) = retry_ms {
            self.asked_wait = self
                .asked_wait
                .max(Duration::from_millis(ms))
                .min(MAX_ASKED);
        }
    }

    fn drop_attempt(&mut self, attempt: Attempt, trouble: Trouble, now: Instant) {
        self.actions.push_back(Action::Close(attempt));
        match &self.phase {
            Phase::Live(live) if live.attempt == attempt => self.lose(trouble, now),
            _ => {
                if let Some(server) = self.attempts.remove(&attempt).and_then(|d| d.server) {
                    self.let_go(server);
                }
                self.give_up(trouble, now);
            }
        }
    }

    /// A server has said no. It would say the same over any other stream.
    fn let_go(&mut self, server: NodeId) {
        let held: Vec<Attempt> = (self.attempts.iter())
            .filter(|(_, dialling)| dialling.server == Some(server))
            .map(|(attempt, _)| *attempt)
            .collect();
        for attempt in held {
            self.attempts.remove(&attempt);
            self.actions.push_back(Action::Close(attempt));
        }
    }

    /// A live session is gone: tell, and dial again after a short wait.
    pub(super) fn lose(&mut self, trouble: Trouble, now: Instant) {
        self.unreachable = Some((now, trouble.clone()));
        self.events.push_back(Event::Unreachable(trouble));
        self.wait(now);
    }

    pub(super) fn ping(&mut self, now: Instant) {
        let Phase::Live(live) = &mut self.phase else {
            return;
        };
        let attempt = live.attempt;
        if !live.resting && now >= self.looked + LOOKED_AT {
            live.resting = true;
            let frame = ClientMessage::Resting(Resting(REST_MS)).frame(0);
            self.actions.push_back(Action::Send { attempt, frame });
        }
        if live.unanswered >= MISSED_PINGS {
            let trouble = Trouble::Silent(live.address.clone());
            self.actions.push_back(Action::Close(attempt));
            return self.lose(trouble, now);
        }
        if live.hurried > 1 {
            live.hurried -= 1;
            live.next_ping = now + HURRY;
        } else if live.hurried == 1 {
            // Nothing came back of all of them: after this one the session is given up.
            (live.hurried, live.unanswered) = (0, MISSED_PINGS);
            live.next_ping = now + PING_ANSWER;
        } else {
            live.unanswered += 1;
            live.next_ping = now + PING_ANSWER;
        }
        let frame = ClientMessage::Ping(Nonce(u64::from(live.unanswered))).frame(0);
        self.actions.push_back(Action::Send { attempt, frame });
    }
}

impl Login {
    /// Somebody looks again: the coordinator is asked as often as before, and at once when it has been silent for as long.
    pub(super) fn end_rest(&mut self, now: Instant) {
        let Phase::Live(live) = &mut self.phase else {
            return;
        };
        live.resting = false;
        let (attempt, heard) = (live.attempt, live.heard);
        if live.unanswered == 0 && live.hurried == 0 {
            live.next_ping = heard + PING;
        }
        let frame = ClientMessage::Resting(Resting(0)).frame(0);
        self.actions.push_back(Action::Send { attempt, frame });
        self.handle_timeout(now);
    }
}

impl Live {
    /// How long the coordinator may be silent before it is asked.
    const fn pause(&self) -> Duration {
        if self.resting { PING_AT_REST } else { PING }
    }
}

/// Text from outside, fit for a terminal and a log line.
fn printable(text: &str) -> String {
    text.chars()
        .take(200)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
