//! A drill over the control socket: what it tells, and what ends it.

use std::time::Duration;

use kanpachi_node::ipc::{
    ExitCode,
    api::{CoordinatorState, Freshness},
    drill::{DrillReply, DrillReport, DrillRequest},
};

use crate::small::Daemon;

/// The shortest one.
const SHORT: DrillRequest = DrillRequest { seconds: 5 };

/// Reads on to the report, and counts the rounds before it.
async fn report(lines: &mut kanpachi_node::ipc::client::Lines<DrillReply>) -> (usize, DrillReport) {
    let mut rounds = 0;
    loop {
        match lines.next().await.unwrap().expect("a report") {
            DrillReply::Begin(_) => panic!("it began twice"),
            DrillReply::Round(round) => {
                assert_eq!(round.coordinator, CoordinatorState::Unreachable);
                rounds += 1;
            }
            DrillReply::Report(report) => return (rounds, report),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_tells_who_answered_and_ends_with_a_report() {
    let daemon = Daemon::start();
    let mut lines = daemon.client().drill(&SHORT).await.unwrap();
    let Some(DrillReply::Begin(begin)) = lines.next().await.unwrap() else {
        panic!("no beginning");
    };
    assert_eq!((begin.seconds, begin.peers), (5, 1));
    assert_eq!(begin.coordinator.as_deref(), Some("203.0.113.7:12975"));
    let (rounds, report) = report(&mut lines).await;
    assert!(rounds >= 2, "{rounds}");
    assert!(!report.early && report.seconds >= 5.0, "{report:?}");
    assert!(report.unreachable_after_s.is_some() && report.reconnected_after_s.is_some());
    let lamp = &report.peers[0];
    assert_eq!(
        (lamp.name.as_str(), lamp.asked as usize, report.peers.len()),
        ("lamp", rounds, 1)
    );
    assert_eq!(lamp.found_by, ["cache"]);
    assert_eq!(report.networks[0].freshness, Some(Freshness::Green));
    assert!(report.waits.contains(&"new_members".to_owned()));
    assert!(
        lines.next().await.unwrap().is_none(),
        "the report is the end"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_is_ended_early_reports_nevertheless() {
    let daemon = Daemon::start();
    let client = daemon.client();
    assert!(!client.end_drill().await.unwrap().ended);
    let mut lines = client.drill(&DrillRequest { seconds: 3600 }).await.unwrap();
    assert!(matches!(lines.next().await, Ok(Some(DrillReply::Begin(_)))));
    assert!(matches!(lines.next().await, Ok(Some(DrillReply::Round(_)))));
    assert!(client.end_drill().await.unwrap().ended);
    let (_, report) = report(&mut lines).await;
    assert!(report.early && report.seconds < 60.0, "{report:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_ends_with_whoever_asked_for_it() {
    let daemon = Daemon::start();
    let mut lines = daemon
        .client()
        .drill(&DrillRequest { seconds: 3600 })
        .await
        .unwrap();
    assert!(matches!(lines.next().await, Ok(Some(DrillReply::Begin(_)))));
    drop(lines);
    let ended = async {
        while daemon.small.drill.lock().unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .expect("the drill goes on without anybody");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_has_bounds() {
    let daemon = Daemon::start();
    for seconds in [0, 4, 3601, u64::MAX] {
        let refused = daemon
            .client()
            .drill(&DrillRequest { seconds })
            .await
            .unwrap_err();
        assert_eq!(refused.exit, ExitCode::Usage, "{seconds}");
    }
    assert!(daemon.asked().iter().all(|what| !what.starts_with("drill")));
    daemon.stop().await;
}
