//! Show 7 of Part 4: of several relays the best one is used, or the one that was asked for.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kanpachi_tests::{
    client::Node,
    lab::{Host, Lab, run},
    mesh::{Hub, Member, reach},
    nat::{behaviour::Behaviour, gateway::Made, world::World},
    note,
    process::Process,
    traffic::ping,
    wait::eventually,
    wire::{Settings, Wire},
};

/// Name and delay each way.
const RELAYS: [(&str, u64); 3] = [("near", 10), ("middle", 40), ("far", 80)];
/// How often the choice is made anew.
const ROUNDS: usize = 20;
/// From a start to the best relay.
const CHOSEN: Duration = Duration::from_secs(15);
const STOP: Duration = Duration::from_secs(5);
/// What becomes of the delay to the nearest relay and back.
const CONGESTED: Duration = Duration::from_millis(200);
/// Until a smoothed round trip says so: it follows by an eighth every 1.5 s.
const MEASURED: Duration = Duration::from_secs(30);

/// Two members behind symmetric NATs, and three relays at different distances.
struct Scene {
    relays: Vec<Host>,
    wires: Vec<Wire>,
    members: Vec<Member>,
    _running: (Hub, Vec<Process>, World),
}

impl Scene {
    fn new(lab: &mut Lab) -> Result<Self> {
        let public = lab.public().clone();
        let (mut relays, mut wires) = (Vec::new(), Vec::new());
        for (name, delay) in RELAYS {
            let settings = Settings {
                delay: Duration::from_millis(delay),
                ..Settings::default()
            };
            let (host, wire) = lab.host_by_wire(name, &public, settings)?;
            relays.push(host);
            wires.push(wire);
        }
        let (hub, processes) = Hub::start_beside(lab, &relays)?;
        let mut world = World::default();
        let mut members: Vec<Member> = Vec::new();
        for name in ["alice", "bob"] {
            world.home(lab, name, Behaviour::SYMMETRIC, Made::ByKernel)?;
            let node = Node::new(lab, &world.site(name)?.host)?;
            let invite = match members.first() {
                None => hub.invite()?.to_owned(),
                Some(owner) => owner.node.invite("lan", &[])?,
            };
            members.push(Member::join(node, &invite)?);
        }
        Ok(Self {
            relays,
            wires,
            members,
            _running: (hub, processes, world),
        })
    }

    /// Waits until data to the other takes this relay.
    fn wait_for(&self, at: usize, relay: &str) -> Result<()> {
        let what = format!("{} goes over the {relay} relay", self.members[at].name());
        eventually(CHOSEN, &what, || self.takes(at, relay))
    }

    fn takes(&self, at: usize, relay: &str) -> Result<()> {
        let host = self.relays.iter().find(|r| r.name == relay);
        self.goes_over(at, host.map(|host| host.v4.to_string()).as_deref())
    }

    /// Does data to the other take the relay that is called so?
    fn goes_over(&self, at: usize, called: Option<&str>) -> Result<()> {
        let (node, other) = (&self.members[at].node, self.members[1 - at].name());
        let peer = node.status()?.peer(other)?;
        ensure!(peer["path"] == "relay", "path {}", peer["path"]);
        ensure!(peer["via"].as_str() == called, "{}", peer["via"]);
        Ok(())
    }
}

#[test]
fn the_nearest_of_three_relays_is_chosen_every_time_and_an_order_is_obeyed() {
    run("relay-show7", |lab| {
        let mut scene = Scene::new(lab)?;
        reach(&scene.members[0], &scene.members[1], CHOSEN)?;
        let mut slowest = Duration::ZERO;
        for round in 0..ROUNDS {
            let start = Instant::now();
            let member = &mut scene.members[round % 2];
            member.process.terminate(STOP)?;
            member.start_again()?;
            scene.wait_for(round % 2, "near")?;
            scene.wait_for(1 - round % 2, "near")?;
            slowest = slowest.max(start.elapsed());
        }
        note(format_args!(
            "the best relay {ROUNDS} of {ROUNDS} times, after {:.1} s at the latest",
            slowest.as_secs_f64()
        ));

        let far = scene.relays[2].v4.to_string();
        let alice = &mut scene.members[0];
        alice.process.terminate(STOP)?;
        alice.process = alice.node.start(&["up", "--relay-via", &far])?;
        scene.wait_for(0, "far")?;
        scene.wait_for(1, "far")?;
        reach(&scene.members[0], &scene.members[1], CHOSEN)?;

        // A member that relays is called by its name, as a person writes it.
        let host = lab.public_host("carol")?;
        let carol = Node::new(lab, &host)?;
        let invite = scene.members[0].node.invite("lan", &[])?;
        let mut carol = Member::join(carol, &invite)?;
        carol.process.terminate(STOP)?;
        carol.process = carol.node.start(&["up", "--relay"])?;
        let alice = &mut scene.members[0];
        alice.process.terminate(STOP)?;
        alice.process = alice.node.start(&["up", "--relay-via", "Carol"])?;
        eventually(CHOSEN, "both go over carol", || {
            scene.goes_over(0, Some("carol"))?;
            scene.goes_over(1, Some("carol"))
        })?;
        reach(&scene.members[0], &scene.members[1], CHOSEN)
    });
}

#[test]
fn data_leaves_the_nearest_relay_when_another_has_become_nearer() {
    run("relay-show7-slow", |lab| {
        let scene = Scene::new(lab)?;
        let (alice, bob) = (&scene.members[0], &scene.members[1]);
        reach(alice, bob, CHOSEN)?;
        scene.wait_for(0, "near")?;
        scene.wires[0].set(Settings {
            delay: CONGESTED,
            ..Settings::default()
        });
        eventually(MEASURED, "data takes the middle relay", || {
            ping::once(&alice.node.host.ns, bob.overlay.v4.into())?;
            scene.takes(0, "middle")?;
            scene.takes(1, "middle")
        })
    });
}
