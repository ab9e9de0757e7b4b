//! The command line of `kanpachi-bootstrap`.

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
};

use clap::{Args, Parser, Subcommand};
use kanpachi_common::{
    OrgId,
    invite::{Invite, MAX_LINK},
    org::{Address, transports},
};
use kanpachi_transport::{keypair_from_seed, quic::address::from_multiaddr};
use serde_json::json;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    Bootstrap, Config, DEFAULT_PORT, Handle, StartError, relay::Limits, state_dir::StateDir,
};

/// DHT bootstrap, address reflector, relay and mirror of a Kanpachi organisation.
#[derive(Debug, Parser)]
#[command(name = "kanpachi-bootstrap", version)]
struct Cli {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    /// How much to log: error, warn, info, debug or trace
    #[arg(
        long,
        global = true,
        env = "KANPACHI_LOG_LEVEL",
        default_value = "info",
        value_name = "LEVEL"
    )]
    log_level: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until stopped
    Serve(Serve),
}

#[derive(Args, Debug)]
struct Serve {
    /// Directory of key and mirror
    #[arg(
        long,
        env = "KANPACHI_STATE_DIR",
        default_value = "/var/lib/kanpachi/bootstrap",
        value_name = "DIR"
    )]
    state_dir: PathBuf,
    /// UDP port, and TCP port unless --listen-tcp says otherwise
    #[arg(long, default_value_t = DEFAULT_PORT, value_name = "PORT")]
    listen: u16,
    /// TCP port; may be given several times
    #[arg(long, value_name = "PORT")]
    listen_tcp: Vec<u16>,
    /// Address that others reach this machine by; may be given several times
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Vec<Advertise>,
    /// Organisation to serve, at the first start
    #[arg(long, value_name = "ID", value_parser = parse_org, conflicts_with = "invite")]
    org: Option<OrgId>,
    /// Take the organisation from an invite, - for standard input
    #[arg(long, value_name = "LINK")]
    invite: Option<String>,
    /// Relay no data: members that no direct path joins need another relay
    #[arg(long)]
    no_relay: bool,
    /// What each member may send through the relay, in Mbit/s; 0 for no limit
    #[arg(
        long,
        value_name = "MBIT",
        default_value_t = 500,
        conflicts_with = "no_relay"
    )]
    relay_rate: u32,
}

/// An address that the operator vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Advertise {
    host: String,
    port: Option<u16>,
}

/// What a person typed and cannot be meant.
#[derive(Debug, Error)]
enum UsageError {
    #[error("{0:?} is not an address: use HOST, HOST:PORT or [IPV6]:PORT")]
    Address(String),
    #[error("{0:?} is not the id of an organisation: it has 52 letters and digits")]
    Organisation(String),
    #[error(transparent)]
    Invite(#[from] kanpachi_common::invite::InviteError),
}

fn parse_org(text: &str) -> Result<OrgId, UsageError> {
    OrgId::parse(text).ok_or_else(|| UsageError::Organisation(text.chars().take(60).collect()))
}

impl FromStr for Advertise {
    type Err = UsageError;

    fn from_str(text: &str) -> Result<Self, UsageError> {
        let wrong = || UsageError::Address(text.chars().take(100).collect());
        let (host, port) = if text.parse::<Ipv6Addr>().is_ok() {
            (text.to_owned(), None)
        } else if let Ok(v6) = text.parse::<std::net::SocketAddrV6>() {
            (v6.ip().to_string(), Some(v6.port()))
        } else if let Some((host, port)) = text.rsplit_once(':') {
            let port = port.parse().map_err(|_| wrong())?;
            (host.to_owned(), Some(port))
        } else {
            (text.to_owned(), None)
        };
        let literal = host.parse::<Ipv6Addr>().is_ok();
        let possible = literal || !host.contains(':');
        match Address::new(host.as_str(), port.unwrap_or(1)).check() {
            Ok(()) if possible => Ok(Self { host, port }),
            _ => Err(wrong()),
        }
    }
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_new(&cli.log_level).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    let json = cli.json;
    let Command::Serve(args) = cli.command;
    match run(args, json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (code, exit) = classify(&error);
            let text = format!("{error:#}");
            if json {
                let error = json!({"error": {"code": code, "message": text, "hint": null}});
                let _ = writeln!(io::stdout(), "{error}");
            }
            let _ = writeln!(io::stderr(), "kanpachi-bootstrap: {text}");
            ExitCode::from(exit)
        }
    }
}

/// Name for programs and exit code.
fn classify(error: &anyhow::Error) -> (&'static str, u8) {
    if let Some(error) = error.downcast_ref::<StartError>() {
        (error.code(), error.exit_code())
    } else if error.is::<UsageError>() {
        ("bad_invite", 2)
    } else {
        ("failed", 1)
    }
}

fn run(args: Serve, json: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(serve(args, json))
}

async fn serve(args: Serve, json: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let state = StateDir::open(&args.state_dir)?;
    let org = state.organisation(wanted_org(&args)?)?;
    let keypair = keypair_from_seed(&state.identity()?.seed());
    let listen_tcp = if args.listen_tcp.is_empty() {
        vec![args.listen]
    } else {
        args.listen_tcp
    };
    let advertise = addresses(&args.advertise, args.listen, &listen_tcp);
    let relay = (!args.no_relay).then(|| Limits {
        rate: u64::from(args.relay_rate) * 125_000,
        ..Limits::BOOTSTRAP
    });
    let handle = Bootstrap::start(Config {
        state_dir: Some(state.path().to_owned()),
        listen: args.listen,
        listen_tcp,
        advertise: advertise.clone(),
        relay,
        ..Config::new(keypair, org)
    })
    .await?;
    announce(&handle, &org, &advertise, json)?;
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        why = handle.ended() => Some(why),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    handle.shutdown().await;
    match ended {
        None => Ok(()),
        Some(why) => Err(anyhow::anyhow!(why)),
    }
}

/// The organisation on the command line, if there is one.
fn wanted_org(args: &Serve) -> anyhow::Result<Option<OrgId>> {
    let Some(invite) = &args.invite else {
        return Ok(args.org);
    };
    let mut text = invite.clone();
    if invite == "-" {
        text.clear();
        io::stdin()
            .take(MAX_LINK as u64 + 1)
            .read_to_string(&mut text)?;
    }
    Ok(Some(Invite::parse(&text).map_err(UsageError::from)?.org))
}

/// What the operator advertises, with the transports that are there.
fn addresses(advertise: &[Advertise], udp: u16, tcp: &[u16]) -> Vec<Address> {
    let address = |a: &Advertise| {
        let port = a.port.unwrap_or(udp);
        // A port of its own is one that a router translates: both transports then, as far as is known here.
        let has_tcp = !tcp.is_empty() && (a.port.is_some() || tcp.contains(&port));
        Address {
            transports: transports::QUIC | if has_tcp { transports::of_tcp(port) } else { 0 },
            ..Address::new(a.host.clone(), port)
        }
    };
    advertise.iter().map(address).collect()
}

/// Says that it is ready, and as what.
fn announce(handle: &Handle, org: &OrgId, advertise: &[Address], json: bool) -> io::Result<()> {
    let mut listen: Vec<String> = advertise.iter().map(ToString::to_string).collect();
    for addr in handle.listen_addresses().iter().filter_map(from_multiaddr) {
        let text = addr.to_string();
        if !addr.ip().is_loopback() && !listen.contains(&text) {
            listen.push(text);
        }
    }
    let (org, id) = (org.to_string(), handle.peer_id().to_string());
    let mut out = io::stdout().lock();
    if json {
        let line = json!({"org": org, "id": id, "listen": listen});
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "organisation  {org}")?;
        writeln!(out, "bootstrap     {id}")?;
        writeln!(out, "listening on  {}", listen.join(", "))?;
        let address = listen.first().cloned().unwrap_or_else(|| {
            SocketAddr::new(IpAddr::from([127, 0, 0, 1]), handle.socket().port()).to_string()
        });
        writeln!(
            out,
            "Start the coordinator with --bootstrap {address}/{id} so that nodes learn of it."
        )?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Advertise>().ok().map(|a| (a.host, a.port));
        let is = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(read("vpn.example.org"), is("vpn.example.org", None));
        assert_eq!(read("192.0.2.1:443"), is("192.0.2.1", Some(443)));
        assert_eq!(read("2001:db8::1"), is("2001:db8::1", None));
        assert_eq!(read("[2001:db8::1]:443"), is("2001:db8::1", Some(443)));
        for bad in [
            "",
            ":1",
            "host:",
            "host:0",
            "host:x",
            "host:70000",
            "a b",
            "1:2:3",
            "[::1]",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_advertised_address_offers_the_transports_that_are_there() {
        let one = |text: &str, udp, tcp: &[u16]| {
            let advertise: Advertise = text.parse().unwrap();
            let found = addresses(&[advertise], udp, tcp);
            (found[0].port, found[0].transports)
        };
        let both = transports::QUIC | transports::TCP;
        assert_eq!(one("h", 12975, &[12975]), (12975, both));
        assert_eq!(one("h", 12975, &[443]), (12975, transports::QUIC));
        assert_eq!(one("h:7", 12975, &[443]), (7, both));
        let web = both | transports::WEBSOCKET;
        assert_eq!(one("h:443", 12975, &[443]), (443, web));
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
