//! What mirrors are fed, and what they say to a database from a backup.

use super::*;

async fn with_mirror(dir: &Path, mirror: &Arc<Keeper>) -> Service {
    with_mirrors(dir, &[mirror]).await
}

async fn with_mirrors(dir: &Path, mirrors: &[&Arc<Keeper>]) -> Service {
    let mirrors = mirrors.iter().map(|m| Arc::clone(m) as Arc<dyn Mirror>);
    let mut database = Database::open(dir).unwrap();
    let organisation = Organisation::open(&mut database, None, clock::wall()).unwrap();
    let setup = Setup {
        store: Arc::new(database.into_store(organisation.signer.clone()).unwrap()),
        servers: Servers::default(),
        mirrors: mirrors.collect(),
        remote: Arc::new(|_| None),
    };
    Service::start(&organisation, setup).await.unwrap()
}

/// Joins in the store alone, and owns the network by it.
async fn founder(service: &Service, network: NetworkId) -> SecretKey {
    let options = InviteOptions {
        founder: true,
        ..InviteOptions::default()
    };
    let made = service.make_invite(network, options).await.unwrap();
    let key = SecretKey::from_seed(&[8; 32]);
    let join = crate::store::JoinNetwork {
        token_hash: kanpachi_common::invite::token_hash(
            &Invite::parse(&made.link).unwrap().secret.token(),
        ),
        node: key.node_id(),
        tunnel: TunnelKey::sign(&key, &service.org(), 1, [1; 32]),
        name: "eight".into(),
        member: kanpachi_common::MemberId([8; 32]),
        salt: [4; 16],
        now: clock::wall(),
    };
    service.inner.store.join_network(join).await.unwrap();
    key
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_network_is_told_to_a_mirror_that_was_away_until_it_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = Arc::new(Keeper::default());
    let service = with_mirror(dir.path(), &mirror).await;
    let network = service.ensure_network("lan").await.unwrap().network;
    let key = founder(&service, network).await;
    mirror.away.store(true, Ordering::SeqCst);
    let delete = crate::store::DeleteNetwork {
        network,
        by: key.node_id(),
        now: clock::wall(),
    };
    service.inner.store.delete_network(delete).await.unwrap();
    let mut owed = std::collections::BTreeSet::new();
    service.heed([network].into(), &mut owed).await;
    service.sweep(&mut owed).await;
    assert_eq!(owed.len(), 1, "nobody took it");
    mirror.away.store(false, Ordering::SeqCst);
    mirror.refuses.store(true, Ordering::SeqCst);
    service.sweep(&mut owed).await;
    assert_eq!(owed.len(), 1, "it was refused");
    mirror.refuses.store(false, Ordering::SeqCst);
    service.sweep(&mut owed).await;
    assert!(owed.is_empty());
    let kept = mirror.kept.lock().unwrap().get(&Some(network)).cloned();
    assert_eq!(kept.unwrap().roster.unwrap().entries, vec![]);
    service.stop().await;
}

/// A coordinator that does nothing by itself any more, with these networks, of which the last has ended.
async fn with_networks(dir: &Path, mirrors: &[&Arc<Keeper>]) -> (Service, Vec<NetworkId>) {
    let service = with_mirrors(dir, mirrors).await;
    let mut networks = vec![];
    for name in ["a", "b", "c", "d"] {
        networks.push(service.ensure_network(name).await.unwrap().network);
    }
    let key = founder(&service, networks[3]).await;
    let delete = crate::store::DeleteNetwork {
        network: networks[3],
        by: key.node_id(),
        now: clock::wall(),
    };
    service.inner.store.delete_network(delete).await.unwrap();
    service.stop().await;
    for mirror in mirrors {
        mirror.told.lock().unwrap().clear();
    }
    (service, networks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_does_not_answer_is_waited_for_once_in_a_round() {
    let dir = tempfile::tempdir().unwrap();
    let (dead, well) = (Arc::new(Keeper::default()), Arc::new(Keeper::default()));
    let (service, networks) = with_networks(dir.path(), &[&dead, &well]).await;
    dead.away.store(true, Ordering::SeqCst);
    let missed = || dead.missed.swap(0, Ordering::SeqCst);
    let mut owed = [networks[3]].into();
    service.sweep(&mut owed).await;
    assert_eq!(missed(), 1, "a sweep");
    assert_eq!(owed, [networks[3]].into(), "not all have it");
    assert!(networks.iter().all(|network| well.has(*network)));
    well.kept.lock().unwrap().clear();
    owed.clear();
    let changed = networks.iter().copied().collect();
    service.heed(changed, &mut owed).await;
    assert_eq!(missed(), 1, "changes");
    assert_eq!(owed, [networks[3]].into());
    assert!(networks.iter().all(|network| well.has(*network)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_does_not_wait_for_the_end_of_a_sweep() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = Arc::new(Keeper::default());
    let (service, networks) = with_networks(dir.path(), &[&mirror]).await;
    let listed = service.networks().await.unwrap();
    let last = listed.last().unwrap().network;
    service.inner.notices.changed(last);
    service.sweep(&mut std::collections::BTreeSet::new()).await;
    let told = mirror.told.lock().unwrap().clone();
    assert_eq!(told.iter().flatten().next(), Some(&last), "{told:?}");
    assert!(networks[..3].iter().all(|n| told.contains(&Some(*n))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_has_lost_everything_is_told_of_networks_that_ended_too() {
    let dir = tempfile::tempdir().unwrap();
    let (lost, well) = (Arc::new(Keeper::default()), Arc::new(Keeper::default()));
    let (service, networks) = with_networks(dir.path(), &[&lost, &well]).await;
    let mut owed = [networks[3]].into();
    service.sweep(&mut owed).await;
    assert!(owed.is_empty() && lost.has(networks[3]));
    lost.kept.lock().unwrap().clear();
    service.sweep(&mut owed).await;
    assert!(networks.iter().all(|network| lost.has(*network)));
    assert!(owed.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_from_a_backup_signs_nothing_when_a_mirror_knows_more() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = Arc::new(Keeper::default());
    let service = with_mirror(dir.path(), &mirror).await;
    let network = service.ensure_network("lan").await.unwrap();
    assert_eq!(service.recovery(), None);
    service.stop().await;
    drop(service);
    let backup = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), backup.path().join(file.file_name())).unwrap();
    }

    // Life goes on: somebody joins, and the mirror hears of it.
    let service = with_mirror(dir.path(), &mirror).await;
    assert_eq!(service.recovery(), None);
    let made = service
        .make_invite(network.network, InviteOptions::default())
        .await
        .unwrap();
    let key = SecretKey::from_seed(&[9; 32]);
    let join = crate::store::JoinNetwork {
        token_hash: kanpachi_common::invite::token_hash(
            &Invite::parse(&made.link).unwrap().secret.token(),
        ),
        node: key.node_id(),
        tunnel: TunnelKey::sign(&key, &service.org(), 1, [1; 32]),
        name: "nine".into(),
        member: kanpachi_common::MemberId([3; 32]),
        salt: [4; 16],
        now: clock::wall(),
    };
    service.inner.store.join_network(join).await.unwrap();
    service.changed(network.network).await.unwrap();
    let newest = service
        .inner
        .store
        .newest_head(network.network)
        .await
        .unwrap()
        .unwrap();
    let mirrored = async {
        loop {
            let kept = mirror
                .kept
                .lock()
                .unwrap()
                .get(&Some(network.network))
                .cloned();
            if kept.is_some_and(|m| m.roster.unwrap().head == *newest.signed()) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, mirrored)
        .await
        .expect("the mirror is told");
    service.stop().await;
    drop(service);

    let service = with_mirror(backup.path(), &mirror).await;
    let why = service.recovery().expect("recovery");
    assert!(why.contains("epoch 2") && why.contains("restore"), "{why}");
    let refused = service
        .make_invite(network.network, InviteOptions::default())
        .await;
    assert!(matches!(
        refused,
        Err(crate::service::ServiceError::Recovery(_))
    ));
    let unchanged = service
        .inner
        .store
        .newest_head(network.network)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(unchanged.epoch, 1);
    assert_ne!(unchanged.root, Hash([0; 32]));
    service.stop().await;
}

/// Waits until something is so.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(SOON, waiting).await;
    assert!(waited.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reaches_the_mirrors_whatever_is_claimed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = Arc::new(Keeper::default());
    let service = with_mirror(dir.path(), &mirror).await;
    mirror.mute.store(true, Ordering::SeqCst);
    for n in 0..=255 {
        let node = kanpachi_common::NodeId([n; 32]);
        service.inner.notices.claims_newer(node, NetworkId([n; 32]));
    }
    let asked = || mirror.asked.load(Ordering::SeqCst);
    until("a claim is looked into", || asked() > 0).await;
    let network = service.ensure_network("lan").await.unwrap().network;
    let kept = || mirror.kept.lock().unwrap().contains_key(&Some(network));
    until("the mirror has the network", kept).await;
    assert_eq!(asked(), 1, "one after the other");
    service.stop().await;
}

/// Would a coordinator that starts now on this store, with these mirrors, hear members before it signs?
async fn waits_at_its_start(service: &Service, mirrors: &[Arc<dyn Mirror>]) -> bool {
    let config = crate::decide::Config {
        manifest: service.manifest().clone(),
        directory: service.directory(),
        org: service.org(),
        pool: kanpachi_common::Pool::default(),
        addresses: vec![],
    };
    let mut core = crate::decide::Core::new(config, [3; 32], clock::now());
    let manifest = Manifest::verify(service.manifest(), &service.org()).unwrap();
    let store = &*service.inner.store;
    let compared = crate::service::mirrors::compare(&manifest, store, mirrors).await;
    crate::service::judge_start(&mut core, &compared.unwrap(), store)
        .await
        .unwrap();
    core.poll_timeout().is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_out_of_the_same_backup_remembers_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = Arc::new(Keeper::default());
    let service = with_mirror(dir.path(), &mirror).await;
    let network = service.ensure_network("lan").await.unwrap().network;
    service.sweep(&mut std::collections::BTreeSet::new()).await;
    let manifest = Manifest::verify(service.manifest(), &service.org()).unwrap();
    let store = Arc::clone(&service.inner.store);
    let mirrors = [Arc::clone(&mirror) as Arc<dyn Mirror>];
    let recalled = || async {
        let compared = crate::service::mirrors::compare(&manifest, &*store, &mirrors).await;
        compared.unwrap().recalled
    };
    assert_eq!(recalled().await, [network].into());
    mirror.beside.store(true, Ordering::SeqCst);
    assert_eq!(recalled().await, [].into());
    assert!(!waits_at_its_start(&service, &mirrors).await, "for nobody");
    // Nor does one that has missed what the store knows.
    mirror.beside.store(false, Ordering::SeqCst);
    mirror.away.store(true, Ordering::SeqCst);
    founder(&service, network).await;
    mirror.away.store(false, Ordering::SeqCst);
    assert_eq!(recalled().await, [].into());
    assert!(waits_at_its_start(&service, &mirrors).await);
    service.sweep(&mut std::collections::BTreeSet::new()).await;
    assert!(!waits_at_its_start(&service, &mirrors).await);
    mirror.beside.store(true, Ordering::SeqCst);
    assert!(waits_at_its_start(&service, &mirrors).await);
    service.stop().await;
}
