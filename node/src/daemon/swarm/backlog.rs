//! Events that the core has no room for yet. What others can have said any number of times takes a bounded place in it, and the
//! newest word is the one that stays.

use std::collections::VecDeque;

use kanpachi_common::NodeId;

use super::sightings::MAX_OF_ONE;
use super::{Event, RecordEvent};

/// Events in all, when one comes that may be lost.
const MAX_WAITING: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Backlog(VecDeque<Event>);

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }

    pub(super) fn push(&mut self, event: Event) {
        if let Some(oldest) = self.crowded(&event) {
            self.0.remove(oldest);
        }
        let older = self.0.iter_mut().find(|other| replaces(&event, other));
        if let Some(older) = older {
            *older = event;
        } else if may_be_lost(&event) && self.0.len() >= MAX_WAITING {
            tracing::debug!("the core is behind: something is dropped");
        } else {
            // How much there is of everything else depends on what the core asked for, and on how many members there are.
            self.0.push_back(event);
        }
    }

    /// Where the oldest sighting of a member waits of which there are as many as are remembered, if this is another one.
    fn crowded(&self, event: &Event) -> Option<usize> {
        let Event::OnLan { node, .. } = event else {
            return None;
        };
        let of_it = |other: &Event| matches!(other, Event::OnLan { node: of, .. } if of == node);
        let places = (self.0.iter().enumerate()).filter(|(_, other)| of_it(other));
        let (oldest, _) = places.clone().next()?;
        let another = !places.clone().any(|(_, other)| replaces(event, other));
        (another && places.count() >= MAX_OF_ONE).then_some(oldest)
    }
}

/// Does the newer of two events leave nothing to be said by the older one? Of these a member can have any number said.
fn replaces(newer: &Event, older: &Event) -> bool {
    let same = |one: &NodeId, other: &NodeId| one == other;
    match (newer, older) {
        (Event::Introduced(one), Event::Introduced(other)) => same(one, other),
        (Event::Observed(one, at), Event::Observed(other, there)) => {
            same(one, other) && at.is_ipv4() == there.is_ipv4()
        }
        (
            Event::OnLan { node: one, addr },
            Event::OnLan {
                node: other,
                addr: there,
            },
        ) => same(one, other) && addr == there,
        (
            Event::Addresses {
                node: one, relayed, ..
            },
            Event::Addresses {
                node: other,
                relayed: was,
                ..
            },
        ) => same(one, other) && relayed == was,
        (Event::Relaying { node: one, .. }, Event::Relaying { node: other, .. })
        | (
            Event::Record(RecordEvent::Server { node: one, .. }),
            Event::Record(RecordEvent::Server { node: other, .. }),
        ) => same(one, other),
        _ => false,
    }
}

/// May it be lost when far more has come than the core can take? Anybody can have any number of these said.
const fn may_be_lost(event: &Event) -> bool {
    matches!(
        event,
        Event::Record(RecordEvent::Value { .. } | RecordEvent::Offered { .. })
    )
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn addr(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], 1))
    }

    fn drain(backlog: &mut Backlog) -> Vec<String> {
        std::iter::from_fn(|| backlog.pop().map(|event| format!("{event:?}"))).collect()
    }

    #[test]
    fn the_newest_word_of_a_member_takes_the_place_of_its_last() {
        let (one, other) = (NodeId([1; 32]), NodeId([2; 32]));
        let told = |node, host, relayed| Event::Addresses {
            node,
            addrs: vec![addr(host)],
            relayed,
        };
        let mut backlog = Backlog::default();
        for host in 1..=200 {
            backlog.push(told(one, host, false));
            backlog.push(told(one, host, true));
            backlog.push(Event::Observed(other, addr(host)));
        }
        let seen = drain(&mut backlog);
        assert_eq!(seen.len(), 3, "{seen:?}");
        assert!(seen.iter().all(|event| event.contains("192.0.2.200")));
    }

    #[test]
    fn who_floods_with_sightings_of_one_member_does_not_hide_another() {
        let mut backlog = Backlog::default();
        for port in 0..5000 {
            let addr = SocketAddr::from(([192, 0, 2, 1], port));
            let node = NodeId([1; 32]);
            backlog.push(Event::OnLan { node, addr });
        }
        let (node, addr) = (NodeId([2; 32]), addr(2));
        backlog.push(Event::OnLan { node, addr });
        backlog.push(Event::OnLan { node, addr });
        let seen = drain(&mut backlog);
        assert_eq!(seen.len(), MAX_OF_ONE + 1, "{seen:?}");
        let of_other = seen.iter().filter(|event| event.contains("192.0.2.2:"));
        assert_eq!(of_other.count(), 1, "{seen:?}");
        // The newest of them.
        for port in 5000 - MAX_OF_ONE..5000 {
            let port = format!(":{port}");
            assert!(seen.iter().any(|event| event.contains(&port)), "{seen:?}");
        }
    }

    #[test]
    fn what_anybody_may_offer_is_bounded_and_nothing_else_is_lost_for_it() {
        let mut backlog = Backlog::default();
        for n in 0..2 * MAX_WAITING {
            backlog.push(Event::AskEnded {
                node: NodeId([0; 32]),
                answered: n % 2 == 0,
            });
            backlog.push(Event::Record(RecordEvent::Offered {
                source: NodeId([1; 32]),
                key: vec![1],
                value: vec![1],
            }));
        }
        let seen = drain(&mut backlog);
        let ended = seen.iter().filter(|event| event.contains("AskEnded"));
        assert_eq!(ended.count(), 2 * MAX_WAITING);
        assert!(
            seen.len() <= 2 * MAX_WAITING + MAX_WAITING,
            "{}",
            seen.len()
        );
    }
}
