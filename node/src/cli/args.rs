//! The command line as it is typed. Everything is checked here, so that a slip is told before anything is touched.

use std::{path::PathBuf, time::Duration};

use clap::{
    Args, Parser, Subcommand,
    builder::{OsStringValueParser, TypedValueParser},
};
use kanpachi_common::{Pool, name, org::Address};
use kanpachi_transport::Proxy;
use zeroize::Zeroizing;

use super::{
    by_code::ByCode,
    drill::DrillCommand,
    generate::Generate,
    networks::args::{NetworkCommand, PasswordFile},
    service::{AsService, ServiceCommand},
};
use crate::{
    options::{Advertise, DEFAULT_NETWORK, DaemonOptions},
    platform::{DEFAULT_INTERFACE, Native, Platform as _},
};

const GLOBAL: &str = "Global options";

const AFTER: &str = "\
Two machines, one private network:
  first machine       sudo kanpachi host
  every other one     sudo kanpachi join 'kanpachi://join/lan#…'   (the line that host prints)
  see who is there    kanpachi list

Exit codes:
  0 done   1 failed   2 usage   3 no permission   4 no daemon   5 refused   6 unreachable

Looking is for everybody; changing things is for root and the group `kanpachi`.
`kanpachi help COMMAND` explains a command.";

/// A private network between your machines, without a company in the middle.
#[derive(Debug, Parser)]
#[command(name = "kanpachi", version, after_help = AFTER, max_term_width = 100)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Where the daemon keeps its keys and what it knows [default: /var/lib/kanpachi]
    #[arg(long, global = true, env = "KANPACHI_STATE_DIR", hide_env_values = true, value_parser = path(), value_name = "DIR", help_heading = GLOBAL)]
    pub state_dir: Option<PathBuf>,

    /// Where daemon and command line meet [default: kanpachi.sock in --state-dir if that is given, else
    /// /run/kanpachi/kanpachi.sock]
    #[arg(long, global = true, env = "KANPACHI_SOCKET", hide_env_values = true, value_parser = path(), value_name = "PATH", help_heading = GLOBAL)]
    pub socket: Option<PathBuf>,

    /// What the virtual network interface is called
    #[arg(long, global = true, env = "KANPACHI_INTERFACE", hide_env_values = true, value_name = "NAME", default_value = DEFAULT_INTERFACE, help_heading = GLOBAL)]
    pub interface: String,

    /// Neither look for members on the local network by mDNS nor show up there
    #[arg(long, global = true, env = "KANPACHI_NO_MDNS", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new(), help_heading = GLOBAL)]
    pub no_mdns: bool,

    /// Do not ask the router to forward ports to this machine (UPnP, NAT-PMP, PCP)
    #[arg(long, global = true, env = "KANPACHI_NO_PORT_MAPPING", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new(), help_heading = GLOBAL)]
    pub no_port_mapping: bool,

    /// Where a relay is needed use this one only: a member that relays, or host name, address or node id of a server
    #[arg(long, global = true, env = "KANPACHI_RELAY_VIA", hide_env_values = true, value_name = "NAME", help_heading = GLOBAL)]
    pub relay_via: Option<String>,

    /// Relay for members of the own networks that no direct path joins (`host` does so anyway)
    #[arg(long, global = true, env = "KANPACHI_RELAY", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new(), help_heading = GLOBAL)]
    pub relay: bool,

    /// What each member may send through the relay here, in Mbit/s; 0 for no limit [default: 500 for `host`, 100 with
    /// --relay]
    #[arg(long, global = true, env = "KANPACHI_RELAY_RATE", hide_env_values = true, value_name = "MBIT", help_heading = GLOBAL)]
    pub relay_rate: Option<u32>,

    /// How much is logged to standard error: off, error, warn, info, debug, trace, or directives such as
    /// warn,kanpachi_node=debug [default: info for `up`, else warn]
    #[arg(long, global = true, env = "KANPACHI_LOG_LEVEL", hide_env_values = true, value_name = "LEVEL", value_parser = log_level, help_heading = GLOBAL)]
    pub log_level: Option<String>,

    /// Print JSON; an error is {"error": {"code", "message", "hint"}} on standard output
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open a network from this machine: coordinator, bootstrap, relay and node in one
    ///
    /// Runs in the foreground until Ctrl-C. The first start makes an organisation and shows its recovery phrase once; every
    /// later start is the same organisation with a fresh invite. Prints the exact command for the next machine, and a short code:
    /// a machine on the same LAN joins by `kanpachi join` and that code.
    ///
    /// One address of this machine must be reachable for the others. A router that speaks UPnP, NAT-PMP or PCP is asked to forward
    /// the port; with another one, forward it there (UDP and TCP) and name the public address with --advertise.
    #[command(after_help = "\
Examples:
  sudo kanpachi host
  sudo kanpachi host --network games --advertise vpn.example.org
  sudo kanpachi host --pool 10.77.0.0/16      for games that accept only private addresses
  sudo kanpachi host --json                   one line {\"org\",\"invite\",\"listen\",\"code\"} when ready, then goes on")]
    Host(Host),

    /// Run the node in the foreground, as a service manager would
    ///
    /// Connects to the organisation that this machine joined before; until then it waits for `kanpachi join`. Speaks
    /// systemd's Type=notify. Stops on Ctrl-C, SIGTERM or `kanpachi down` and leaves no interface and no route behind.
    #[command(after_help = "\
Examples:
  sudo kanpachi up
  sudo kanpachi up --listen 41641
  sudo kanpachi --state-dir /srv/second --interface kanpachi1 up      a second organisation")]
    Up {
        /// UDP and TCP port, exactly this one [default: 12976, or a free one if that is busy]
        #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
        listen: Option<u16>,
    },

    /// Join a network by its invite, by the code of a host on this LAN, or one more by its name and password
    ///
    /// Without anything it lists the hosts on this LAN and asks for the code that `kanpachi host` shows there. Where nobody
    /// can be asked, the code is the first line of standard input.
    ///
    /// An invite brings a machine into an organisation and one of its networks; with no daemon running, this command becomes
    /// the daemon and stays in the foreground. A name and a password bring a machine of the organisation into one more
    /// network. On a terminal the password is asked for.
    #[command(after_help = "\
Examples:
  sudo kanpachi join                          by the code of a host on this LAN
  sudo kanpachi join 'kanpachi://join/lan#AbCd…'
  sudo kanpachi join - < invite.txt           keeps the secret out of the process list
  sudo kanpachi join games
  sudo kanpachi join games --password-file secret.txt
  sudo kanpachi join --host desk --code-file code.txt
  sudo kanpachi --json join - < invite.txt    one line {\"name\",\"ipv4\",\"ipv6\",\"networks\"} when through")]
    Join {
        /// The invite, or `-` to read it from standard input; or the name of a network
        #[arg(value_name = "INVITE|NETWORK", value_parser = secret)]
        target: Option<Zeroizing<String>>,
        /// By code.
        #[command(flatten)]
        by_code: ByCode,
        /// The password of the network.
        #[command(flatten)]
        password: PasswordFile,
        /// As a service.
        #[command(flatten)]
        as_service: AsService,
    },

    /// Make an invite: link, QR code and the command for the next machine
    #[command(after_help = "\
Examples:
  sudo kanpachi invite lan
  sudo kanpachi invite lan --uses 20 --expires 2h
  sudo kanpachi invite lan --json | jq -r .invite")]
    Invite {
        /// Name of the network
        #[arg(value_parser = node_name)]
        network: String,

        /// How many machines may join by it
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        uses: u32,

        /// How long it is good for: 30m, 12h, 7d, 2w
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = time_span)]
        expires: Duration,
    },

    /// What changes networks.
    #[command(flatten)]
    Networks(NetworkCommand),

    /// Show the networks and who is in them
    #[command(after_help = "\
A full green dot has a direct tunnel, a yellow one a relayed or rising tunnel, an empty one is offline.

Examples:
  kanpachi list
  kanpachi list --json | jq -r '.networks[].members[] | select(.online) | .name'")]
    List,

    /// Show this machine, the coordinator, the networks, and what was dropped or refused
    #[command(after_help = "\
Examples:
  kanpachi status
  kanpachi status --json | jq .coordinator")]
    Status,

    /// Show one member in full: path, endpoint, round trip, loss, traffic
    #[command(after_help = "\
Examples:
  kanpachi peer lamp
  kanpachi peer 198.19.77.1 --json")]
    Peer {
        /// Name, virtual address, client id or node id of a member
        #[arg(value_name = "NAME|ADDRESS")]
        target: String,
    },

    /// Ping a member inside the tunnel and tell the path of each answer
    ///
    /// Asks the other daemon, not the other system: firewalls there do not matter. Without -c it sends five, and waits
    /// for a direct path while answers come over a relay. Exits with 6 when nothing came back.
    #[command(after_help = "\
Examples:
  kanpachi ping lamp
  kanpachi ping 198.19.77.1 -c 1 --json       one line of JSON per answer")]
    Ping {
        /// Name, virtual address, client id or node id of a member
        #[arg(value_name = "NAME|ADDRESS")]
        target: String,

        /// How many, whatever path they take [default: 5, or until the path is direct, at most 20]
        #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        count: Option<u32>,
    },

    /// Find out what the network in front of this machine does, and which members can be reached directly
    ///
    /// Asks the bootstraps of the organisation how they see this machine. With --server it asks those instead, and needs no daemon.
    #[command(after_help = "\
Examples:
  kanpachi netcheck
  kanpachi netcheck --json | jq .mapping_varies_by_dest_ip
  kanpachi netcheck --server vpn.example.org:12975")]
    Netcheck {
        /// A bootstrap to ask, without the daemon; may be repeated
        #[arg(long, value_name = "HOST[:PORT]", value_parser = advertise)]
        server: Vec<Advertise>,
    },

    /// Give this machine another name
    ///
    /// 1 to 63 letters, digits and hyphens in any script. A name that is taken gets a suffix: lamp-2.
    #[command(after_help = "\
Examples:
  sudo kanpachi set-nick lamp")]
    SetNick {
        /// The new name
        #[arg(value_parser = node_name)]
        name: String,
    },

    /// Understand the commands of LogMeIn Hamachi, and answer as it does
    ///
    /// For programs and fingers that know Hamachi: link the program under the name `hamachi`. `kanpachi hamachi -h` lists the
    /// commands.
    #[command(
        disable_help_flag = true,
        after_help = "\
Examples:
  kanpachi hamachi list
  sudo kanpachi hamachi join games -        the password from standard input
  sudo ln -s kanpachi /usr/local/bin/hamachi"
    )]
    Hamachi {
        /// A command of Hamachi with what belongs to it
        #[arg(
            value_name = "COMMAND",
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        args: Vec<String>,
    },

    /// Rehearse an outage
    #[command(after_help = "\
Examples:
  sudo kanpachi drill coordinator-down")]
    Drill {
        /// Which one.
        #[command(subcommand)]
        command: DrillCommand,
    },

    /// Stop the daemon and wait until it is gone
    #[command(after_help = "\
Examples:
  sudo kanpachi down")]
    Down,

    /// Keep the node running as a service of systemd
    #[command(after_help = "\
Examples:
  sudo kanpachi service install
  sudo kanpachi service uninstall --purge")]
    Service {
        /// What to do with it.
        #[command(subcommand)]
        command: ServiceCommand,
    },

    /// Write completions and man pages, for packagers
    #[command(hide = true)]
    Generate {
        /// What to write.
        #[command(subcommand)]
        what: Generate,
    },
}

/// `kanpachi host`
#[derive(Args, Debug)]
pub struct Host {
    /// Name of the network that the invite is for; made if it does not exist
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NETWORK, value_parser = node_name)]
    pub network: String,

    /// UDP and TCP port of coordinator, bootstrap and relay [default: 12975]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub listen: Option<u16>,

    /// A further TCP port, for networks that let little out (443, 80); may be repeated
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub listen_tcp: Vec<u16>,

    /// An address at which the others reach this machine, put first into invites; may be repeated
    #[arg(long, value_name = "HOST[:PORT]", value_parser = advertise)]
    pub advertise: Vec<Advertise>,

    /// Range of the virtual IPv4 addresses of a new organisation [default: 198.19.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub pool: Option<Pool>,

    /// Serve only, without being a member
    #[arg(long)]
    pub no_node: bool,

    /// End a recovery first: after the state was restored from an old backup and members have shown what they know
    #[arg(long)]
    pub recover: bool,

    /// With --recover: go on although newer rosters were seen than members have shown
    #[arg(long, requires = "recover")]
    pub incomplete: bool,

    /// Do not show up on the LAN, and let nobody join there by a code
    #[arg(long)]
    pub no_lan: bool,

    /// Relay no data: members that no direct path joins need another relay
    #[arg(long, conflicts_with = "relay")]
    pub no_relay: bool,
}

impl Global {
    /// Where the command line finds the daemon. An environment variable that is empty counts as not set.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        let given =
            |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        given(&self.socket)
            .or_else(|| given(&self.state_dir).map(|dir| dir.join("kanpachi.sock")))
            .unwrap_or_else(|| Native::default().default_paths().socket)
    }

    /// A daemon with these options.
    #[must_use]
    pub fn daemon(&self, listen: Option<u16>) -> DaemonOptions {
        let state_dir = self
            .state_dir
            .clone()
            .filter(|path| !path.as_os_str().is_empty());
        DaemonOptions {
            state_dir: state_dir.unwrap_or_else(|| Native::default().default_paths().state_dir),
            socket: self.socket(),
            interface: if self.interface.is_empty() {
                DEFAULT_INTERFACE.to_owned()
            } else {
                self.interface.clone()
            },
            listen,
            join: None,
            no_mdns: self.no_mdns,
            port_mapping: !self.no_port_mapping,
            relay_via: self.relay_via.clone().filter(|via| !via.is_empty()),
            relay: self.relay,
            relay_rate: self.relay_rate.map(|mbit| u64::from(mbit) * 125_000),
            proxy: proxy(),
        }
    }
}

/// The proxy that the environment names, as other programs take it. One that cannot be used is no reason not to start.
fn proxy() -> Option<Proxy> {
    let first = |names: [&str; 2]| {
        let values = names
            .into_iter()
            .filter_map(|name| std::env::var(name).ok());
        values.into_iter().find(|value| !value.is_empty())
    };
    let url = first(["HTTPS_PROXY", "https_proxy"])?;
    let without = first(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    Proxy::parse(&url, &without)
        .inspect_err(|error| tracing::warn!("HTTPS_PROXY is not used: {error}"))
        .ok()
}

/// A path that may be empty: an environment variable that is counts as not set.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn log_level(text: &str) -> Result<String, String> {
    super::logging::filter(text)
        .map(|_| text.to_owned())
        .map_err(|_| "use off, error, warn, info, debug or trace".to_owned())
}

pub(super) fn node_name(text: &str) -> Result<String, name::NameError> {
    name::check(text)
}

#[expect(clippy::unnecessary_wraps, reason = "clap wants a fallible parser")]
fn secret(text: &str) -> Result<Zeroizing<String>, std::convert::Infallible> {
    Ok(Zeroizing::new(text.to_owned()))
}

fn time_span(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text)
        .map_err(|_| "use a number and a unit: 30m, 12h, 7d, 2w".to_owned())?;
    match span.as_secs() {
        0 => Err("an invite is good for at least a second".to_owned()),
        s if s > 10 * 365 * 86_400 => Err("an invite is good for at most ten years".to_owned()),
        _ => Ok(span),
    }
}

/// `host`, `host:port`, `2001:db8::7` or `[2001:db8::7]:port`.
fn advertise(text: &str) -> Result<Advertise, String> {
    let wrong = || {
        "use a host name or an address, with a port if it is another: vpn.example.org:443, [2001:db8::7]:443".to_owned()
    };
    let port = |text: &str| {
        text.parse()
            .ok()
            .filter(|port| *port != 0)
            .map(Some)
            .ok_or_else(wrong)
    };
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        match rest.split_once(']').ok_or_else(wrong)? {
            (host, "") => (host, None),
            (host, rest) => (host, port(rest.strip_prefix(':').ok_or_else(wrong)?)?),
        }
    } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
        (text, None)
    } else {
        match text.split_once(':') {
            Some((host, rest)) => (host, port(rest)?),
            None => (text, None),
        }
    };
    // A colon is only in IPv6 addresses, and then it must be one.
    let colons = host.contains(':');
    if colons && host.parse::<std::net::Ipv6Addr>().is_err() || text.starts_with('[') && !colons {
        return Err(wrong());
    }
    Address::new(host, port.unwrap_or(1))
        .check()
        .map_err(|_| wrong())?;
    Ok(Advertise {
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn advertised_addresses_come_in_all_their_forms() {
        let of = |host: &str, port| Advertise {
            host: host.to_owned(),
            port,
        };
        for (text, expected) in [
            ("vpn.example.org", of("vpn.example.org", None)),
            ("vpn.example.org:443", of("vpn.example.org", Some(443))),
            ("203.0.113.7:1", of("203.0.113.7", Some(1))),
            ("2001:db8::7", of("2001:db8::7", None)),
            ("[2001:db8::7]", of("2001:db8::7", None)),
            ("[2001:db8::7]:443", of("2001:db8::7", Some(443))),
        ] {
            assert_eq!(advertise(text).unwrap(), expected);
        }
        for bad in [
            "",
            ":443",
            "host:",
            "host:0",
            "host:99999",
            "a b",
            "[::1",
            "[host]:1",
            "a:b:c",
            "host/path",
            "ho\u{7}st",
        ] {
            assert!(advertise(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spans_of_time_have_bounds() {
        assert_eq!(time_span("7d").unwrap(), Duration::from_secs(7 * 86_400));
        for bad in ["", "7", "0s", "11y", "soon", "-1d"] {
            assert!(time_span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_option_is_enough_for_a_second_daemon_to_have_its_own_socket() {
        let parse = |args: &[&str]| {
            Cli::try_parse_from([&["kanpachi"], args, &["status"]].concat())
                .unwrap()
                .global
        };
        assert_eq!(
            parse(&["--state-dir", "/srv/x"]).socket(),
            PathBuf::from("/srv/x/kanpachi.sock")
        );
        assert_eq!(
            parse(&["--state-dir", "/srv/x", "--socket", "/tmp/s"]).socket(),
            PathBuf::from("/tmp/s")
        );
        assert_eq!(
            parse(&["--state-dir", ""]).socket(),
            Native::default().default_paths().socket
        );
        let daemon = parse(&["--state-dir", "/srv/x", "--interface", "k1"]).daemon(Some(5));
        assert_eq!(
            (daemon.state_dir, daemon.interface.as_str(), daemon.listen),
            ("/srv/x".into(), "k1", Some(5))
        );
    }

    #[test]
    fn every_command_has_examples_and_no_line_is_lost_in_the_help() {
        let mut cli = Cli::command();
        cli.build();
        let shown = cli
            .get_subcommands()
            .filter(|c| c.get_name() != "help" && !c.is_hide_set());
        for command in shown {
            let after = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                after.contains("Examples:\n")
                    && after.contains(&format!("kanpachi {}", command.get_name()))
                    || command.get_name() == "up",
                "{}",
                command.get_name()
            );
        }
    }
}
