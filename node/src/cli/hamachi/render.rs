//! What Hamachi prints: replies, the block about this machine, and the list, in the layout that programs read.
//!
//! The list has fixed places: the mark of a network in column 1 and its bracket in column 3, the mark of a member in
//! column 5 and its client id in columns 7 to 17. What does not fit the form of a field (an endpoint over IPv6, more
//! than three digits of members) is left out or cut, never squeezed in.

use std::net::SocketAddr;

use jiff::Timestamp;
use kanpachi_common::name;
use unicode_width::UnicodeWidthStr as _;

use crate::{
    cli::render::clean,
    ipc::{
        api::{ChangeReply, CoordinatorState, Member, Network, Path, PeerReply, Status},
        error::{ApiError, ExitCode, code},
    },
};

/// Members of a network at the most, in the three digits that the field has.
const CAPACITY: usize = 999;
/// Width of the column of nicknames.
const NICK: usize = 26;
/// Width of the column of IPv4 addresses.
const IPV4: usize = 15;
/// Width of the column of IPv6 addresses.
const IPV6: usize = 24;

/// The version, in the form that programs look for when no daemon tells it.
pub(super) fn version() -> String {
    format!(
        "Hamachi, a zero-config virtual private networking utility, ver {}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// `hamachi -h`
pub(super) fn help() -> String {
    version()
        + "\
This is Kanpachi, which understands the commands of Hamachi.

  hamachi                                    this machine
  hamachi login | logout                     be there, or not
  hamachi list                               networks and members
  hamachi network <network>                  one network
  hamachi peer <client id>                   one member
  hamachi set-nick <nickname>
  hamachi create <network> [password]
  hamachi join <network> [password]
  hamachi leave <network>
  hamachi delete <network>
  hamachi set-pass <network> [password]      without a password: by invite only
  hamachi set-access <network> [lock|unlock] [manual|auto]
  hamachi approve | reject | evict <network> <client id>
  hamachi go-online | go-offline <network>

A password is readable for everybody on this machine while the command runs;
`-` in its place reads it from standard input. `kanpachi help` has the rest.
"
}

/// `Joining games .. ok`
pub(super) fn reply(doing: &str, word: &str) -> String {
    format!("{} .. {}\n", clean(doing), clean(word))
}

/// `Joining games .. failed, invalid password`, or what Hamachi says when it cannot be asked at all.
pub(super) fn failed(doing: &str, error: &ApiError) -> String {
    match error.exit {
        ExitCode::NoDaemon => {
            return "Hamachi does not seem to be running.\nStart it: sudo kanpachi up\n".to_owned();
        }
        ExitCode::NoPermission => {
            return "You do not have permission to control the hamachid daemon.\n".to_owned();
        }
        _ => {}
    }
    let reason = match error.code.as_str() {
        // One reply for three reasons: Kanpachi never says which.
        code::WRONG_PASSWORD => "invalid password",
        code::UNKNOWN_NETWORK => "network not found",
        code::NETWORK_EXISTS => "network name is already taken",
        code::NETWORK_LOCKED => "network is locked",
        code::NETWORK_FULL => "the network is full",
        code::ALREADY_MEMBER => "you are already a member",
        code::LAST_OWNER => "you are an owner",
        code::NOT_ALLOWED => "you are not an owner",
        code::UNKNOWN_PEER | code::AMBIGUOUS_PEER => "client not found",
        // Programs try again when they read this.
        code::BUSY => "busy",
        _ => error.message.as_str(),
    };
    reply(doing, &format!("failed, {reason}"))
}

/// A slip on the command line, on standard error.
pub(super) fn slip(error: &ApiError) -> String {
    let hint = error.hint.as_deref().map(|hint| format!(": {hint}"));
    format!(
        "{}{}\n",
        clean(&error.message),
        clean(&hint.unwrap_or_default())
    )
}

/// `login` and `logout` that change nothing.
pub(super) fn already(logged_in: bool) -> String {
    match logged_in {
        true => "Already logged in\n",
        false => "Already logged out\n",
    }
    .to_owned()
}

/// What Hamachi has no words for, on standard error.
pub(super) fn note(changed: &ChangeReply) -> String {
    match (changed.password_known, &changed.member) {
        (Some(true), Some(member)) => format!(
            "{} may know the password of {}, which should change: hamachi set-pass\n",
            clean(member),
            clean(&changed.network)
        ),
        _ => String::new(),
    }
}

/// `hamachi`: this machine.
pub(super) fn info(status: &Status) -> String {
    let addresses = addresses(
        status.ipv4.map(|ip| ip.to_string()),
        status.ipv6.map(|ip| ip.to_string()),
    );
    block(
        11,
        &[
            ("version", clean(&status.version)),
            ("pid", status.pid.to_string()),
            ("status", session(status).to_owned()),
            ("client id", clean(&status.client_id)),
            ("address", addresses),
            ("nickname", clean(status.name.as_deref().unwrap_or("-"))),
            ("lmi account", "-".to_owned()),
        ],
    )
}

/// A machine with networks is there for them, coordinator or not.
fn session(status: &Status) -> &'static str {
    if !status.logged_in || status.org.is_none() {
        "offline"
    } else if status.coordinator.state == CoordinatorState::Connected || !status.networks.is_empty()
    {
        "logged in"
    } else {
        "logging in"
    }
}

/// `hamachi network <id>`
pub(super) fn network(status: &Status, name: &str) -> Result<String, ApiError> {
    let network = status
        .networks
        .iter()
        .find(|network| name::fold(&network.name) == name::fold(name))
        .ok_or_else(|| ApiError::refused(code::UNKNOWN_NETWORK, "no such network"))?;
    let id = clean(&network.name);
    Ok(block(
        9,
        &[
            ("id", id.clone()),
            ("name", id),
            ("type", "Mesh".to_owned()),
            ("owner", owner(network)),
            (
                "status",
                if network.locked { "locked" } else { "unlocked" }.to_owned(),
            ),
            (
                "approve",
                if network.approval { "manual" } else { "auto" }.to_owned(),
            ),
        ],
    ))
}

/// `hamachi peer <client id>`
pub(super) fn peer(reply: &PeerReply) -> String {
    let member = &reply.peer;
    let state = match (member.waiting, member.online, connection(member)) {
        (true, ..) => "awaiting approval",
        (_, _, Some(connection)) => connection,
        (_, true, None) => "unreachable",
        (_, false, None) => "offline",
    };
    block(
        10,
        &[
            ("client id", clean(&member.client_id)),
            ("nickname", clean(&member.name)),
            (
                "address",
                addresses(
                    member.ipv4.map(|ip| ip.to_string()),
                    member.ipv6.map(|ip| ip.to_string()),
                ),
            ),
            ("status", state.to_owned()),
            (
                "tunnel",
                tunnel(member).map_or_else(|| "-".to_owned(), |tunnel| format!("UDP {tunnel}")),
            ),
            ("networks", clean(&reply.networks.join(", "))),
        ],
    )
}

fn block(width: usize, lines: &[(&str, String)]) -> String {
    lines
        .iter()
        .map(|(name, value)| format!("  {name:width$}: {value}").trim_end().to_owned() + "\n")
        .collect()
}

fn addresses(ipv4: Option<String>, ipv6: Option<String>) -> String {
    let all: Vec<String> = ipv4.into_iter().chain(ipv6).collect();
    all.join("    ")
}

/// `hamachi list`
pub(super) fn list(status: &Status, now: Timestamp) -> String {
    status
        .networks
        .iter()
        .map(|network| lines_of(network, status.logged_in, now))
        .collect()
}

fn lines_of(network: &Network, logged_in: bool, now: Timestamp) -> String {
    let there = network.online && logged_in;
    let mark = if there { '*' } else { ' ' };
    let others = network.members.iter().filter(|member| !member.waiting);
    let used = (others.count() + 1).min(CAPACITY);
    let head = format!(
        " {mark} [{}]  capacity: {used}/{CAPACITY}, subscription type: Free, owner: {}\n",
        clean(&network.name),
        owner(network)
    );
    let expired = network.hard_expires_at.is_some_and(|end| end <= now);
    let members: String = network
        .members
        .iter()
        .map(|member| line(member, there, expired) + "\n")
        .collect();
    head + &members
}

/// Kanpachi has any number of owners, Hamachi one.
fn owner(network: &Network) -> String {
    if network.role == "owner" {
        return "This computer".to_owned();
    }
    let mut owners = network.members.iter();
    owners
        .find(|member| member.role == "owner" && !member.waiting)
        .map_or_else(
            || "none".to_owned(),
            |member| format!("{} ({})", clean(&member.name), clean(&member.client_id)),
        )
}

/// A member in a network that this machine is or is not there in.
fn line(member: &Member, there: bool, expired: bool) -> String {
    let id = clean(&member.client_id);
    if member.waiting {
        return format!("     ? {id}");
    }
    let connection = connection(member);
    let mark = match (member.online, member.path, expired) {
        _ if !there => ' ',
        (_, Some(_), _) => '*',
        (true, None, true) => '!',
        (true, None, false) => 'x',
        (false, None, _) => ' ',
    };
    let nick = clean(&member.name);
    let fill = NICK.saturating_sub(nick.width());
    let ipv4 = member.ipv4.map(|ip| ip.to_string());
    let ipv6 = member.ipv6.map(|ip| ip.to_string()).unwrap_or_default();
    let mut line = format!("     {mark} {id}   {nick}{:fill$}  ", "");
    if !matches!(mark, '*' | '!') {
        line += &ipv4.unwrap_or(ipv6);
        return line.trim_end().to_owned();
    }
    line += &format!(
        "{:IPV4$}  alias: not set  {ipv6:IPV6$}  {:11}",
        ipv4.unwrap_or_default(),
        connection.unwrap_or_default()
    );
    match (mark, tunnel(member)) {
        ('!', _) => line += "this network has expired",
        (_, Some(tunnel)) => line += &format!("UDP  {tunnel}"),
        (_, None) => {}
    }
    line.trim_end().to_owned()
}

const fn connection(member: &Member) -> Option<&'static str> {
    match member.path {
        Some(Path::Lan | Path::Direct) => Some("direct"),
        Some(Path::Relay) => Some("via relay"),
        Some(Path::Connecting) | None => None,
    }
}

/// The other end of a direct tunnel, in the one form that the field has.
fn tunnel(member: &Member) -> Option<SocketAddr> {
    member
        .endpoint
        .filter(|end| end.is_ipv4() && matches!(member.path, Some(Path::Lan | Path::Direct)))
}
