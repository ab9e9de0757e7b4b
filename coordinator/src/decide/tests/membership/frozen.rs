//! What people cannot change while the coordinator is in recovery.

use super::*;

#[test]
fn nothing_is_changed_in_recovery() {
    let (mut lab, [a, b, _]) = party();
    lab.core.handle_recovery("older than its members".into());
    let before = lab.held(GAMES);
    let (network, member) = (GAMES, id_of(&lab, 1));
    let changes = [
        C::Leave(Leave {
            network,
            heir: None,
        }),
        C::DeleteNetwork(DeleteNetwork { network }),
        C::Evict(Evict {
            network,
            member,
            password: None,
        }),
        C::SetPassword(SetPassword {
            network,
            password: None,
        }),
        C::SetAccess(SetAccess {
            network,
            locked: Some(true),
            approval: None,
        }),
        C::Settle(Settle {
            network,
            member,
            approved: true,
        }),
        C::SetRole(SetRole {
            network,
            member,
            owner: false,
        }),
    ];
    for change in changes {
        lab.say(a, 80, &change);
        assert_eq!(lab.refusal(a).1.code, codes::RECOVERY);
    }
    create(&mut lab, a, None);
    assert_eq!(lab.refusal(a).1.code, codes::RECOVERY);
    try_password(&mut lab, b, "Games", "geheim");
    assert_eq!(lab.refusal(b).1.code, codes::RECOVERY);
    assert_eq!(lab.held(GAMES), before);
}
