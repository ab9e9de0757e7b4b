//! The command line of `kanpachi-coordinator`.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
};

use clap::{Args, Parser, Subcommand};
use kanpachi_common::{
    NodeId, Pool,
    org::{Address, Server},
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    addresses::Advertise,
    clock,
    org::RecoveryPhrase,
    recover::{self, Stopped},
    server::{self, Config, Coordinator, DEFAULT_PORT, StartError},
    service::{InviteOptions, ServiceError},
    store::{Refusal, StoreError},
};

/// Set by systemd when standard error is the journal, which is kept on the disk.
const JOURNAL: &str = "JOURNAL_STREAM";

const STATE_DIR: &str = "/var/lib/kanpachi/coordinator";

/// Login, addresses and membership of a Kanpachi organisation.
#[derive(Debug, Parser)]
#[command(name = "kanpachi-coordinator", version)]
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
    /// Serve the organisation; the first start makes it
    Serve(Serve),
    /// Make the organisation and show its recovery phrase, without serving
    Init(State),
    /// End a recovery: after this database was restored from an old backup and members have shown what they know. Stop
    /// the coordinator first
    Recover(Recover),
}

#[derive(Args, Debug)]
struct Recover {
    /// Directory of the database
    #[arg(
        long,
        env = "KANPACHI_STATE_DIR",
        default_value = STATE_DIR,
        value_name = "DIR"
    )]
    state_dir: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Go on although newer rosters were seen than members have shown
    #[arg(long)]
    incomplete: bool,
}

#[derive(Args, Debug)]
struct State {
    /// Directory of the database
    #[arg(
        long,
        env = "KANPACHI_STATE_DIR",
        default_value = STATE_DIR,
        value_name = "DIR"
    )]
    state_dir: PathBuf,
    /// IPv4 pool of a new organisation [default: 198.19.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pool: Option<Pool>,
}

#[derive(Args, Debug)]
struct Serve {
    #[command(flatten)]
    state: State,
    /// UDP port, and TCP port unless --listen-tcp says otherwise
    #[arg(long, default_value_t = DEFAULT_PORT, value_name = "PORT")]
    listen: u16,
    /// TCP port; may be given several times
    #[arg(long, value_name = "PORT")]
    listen_tcp: Vec<u16>,
    /// Address that others reach this machine by; may be given several times
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Vec<Advertise>,
    /// Network that the printed invite is for; created when there is none of that name
    #[arg(long, default_value = "lan", value_name = "NAME")]
    network: String,
    /// Bootstrap of the organisation; may be given several times
    #[arg(long, value_name = "HOST:PORT/ID")]
    bootstrap: Vec<BootstrapArg>,
}

/// A bootstrap on the command line.
#[derive(Clone, Debug)]
struct BootstrapArg {
    id: NodeId,
    address: Address,
}

impl FromStr for BootstrapArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, id) = text
            .rsplit_once('/')
            .ok_or("a bootstrap is HOST:PORT/ID, with the ID that it prints when it starts")?;
        let id =
            NodeId::parse(id).ok_or("the part after the slash is not the ID of a bootstrap")?;
        let address: Advertise = address
            .parse()
            .map_err(|e: crate::addresses::AdvertiseError| e.to_string())?;
        let port = address.port.unwrap_or(DEFAULT_PORT);
        Ok(Self {
            id,
            address: Address::new(address.host, port),
        })
    }
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // libp2p greets, and quinn complains about the socket that is closed at the end; a socket that really fails
    // is reported by the swarm's loop.
    let filter = format!("{},libp2p_swarm=warn,quinn::endpoint=off", cli.log_level);
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    let json = cli.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (code, exit) = classify(&error);
            let text = format!("{error:#}");
            if json {
                let error = json!({"error": {"code": code, "message": text, "hint": null}});
                let _ = writeln!(io::stdout(), "{error}");
            }
            let _ = writeln!(io::stderr(), "kanpachi-coordinator: {text}");
            ExitCode::from(exit)
        }
    }
}

fn classify(error: &anyhow::Error) -> (&'static str, u8) {
    match error.downcast_ref::<StartError>() {
        Some(error) => (error.code(), error.exit_code()),
        None => ("failed", 1),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Init(state) => init(&state, cli.json),
        Command::Recover(args) => runtime()?.block_on(recover(&args, cli.json)),
        Command::Serve(args) => runtime()?.block_on(serve(args, cli.json)),
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}

async fn recover(args: &Recover, json: bool) -> anyhow::Result<()> {
    let stopped = Stopped::open(&args.state_dir)?;
    let Some(recovery) = stopped.recovery().await? else {
        return Err(StartError::from(StoreError::from(Refusal::NoRecovery)).into());
    };
    let lines = recover::describe(&recovery, clock::wall());
    if !json {
        writeln!(io::stdout(), "{}", lines.join("\n"))?;
    }
    if !args.yes && !confirmed(json)? {
        anyhow::bail!("nothing was changed");
    }
    let recovered = stopped.end(args.incomplete).await?;
    if json {
        let line = json!({
            "recovery": lines,
            "networks": recovered.changed.len(),
            "evicted": recovered.evicted,
            "moved": recovered.moved.len(),
        });
        writeln!(io::stdout(), "{line}")?;
    } else {
        writeln!(
            io::stdout(),
            "{}",
            recover::summarise(&recovered).join("\n")
        )?;
    }
    Ok(())
}

/// Asks whoever sits at the terminal; programs say `--yes`.
fn confirmed(json: bool) -> anyhow::Result<bool> {
    if json || !io::stdin().is_terminal() {
        anyhow::bail!("nobody is there to be asked: look at what is shown, then say --yes");
    }
    write!(io::stderr(), "Go on above all of it? [y/N] ")?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().take(16).read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn init(state: &State, json: bool) -> anyhow::Result<()> {
    let organisation = server::init(&state.state_dir, state.pool, show_phrase)?;
    let (org, id) = (
        organisation.org().to_string(),
        organisation.identity.node_id().to_string(),
    );
    if json {
        writeln!(io::stdout(), "{}", json!({"org": org, "id": id}))?;
    } else {
        writeln!(io::stdout(), "organisation  {org}\ncoordinator   {id}")?;
    }
    Ok(())
}

/// Shows the recovery phrase to a person: on standard error, never in the log.
fn show_phrase(phrase: &RecoveryPhrase) -> io::Result<()> {
    writeln!(
        io::stderr(),
        "\nThe recovery phrase of this organisation, shown this once and kept nowhere:\n\n    {}\n\n\
         Write it down. It is needed after a theft of this machine, to name new keys.\n",
        phrase.expose()
    )
}

async fn serve(args: Serve, json: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let state_dir = args.state.state_dir;
    if std::env::var_os(JOURNAL).is_some()
        && !state_dir.join(crate::store::sqlite::DATABASE).exists()
    {
        anyhow::bail!(
            "the first start shows a recovery phrase, which must not end in the journal: run \"kanpachi-coordinator init --state-dir {}\" in a terminal once",
            state_dir.display()
        );
    }
    let mut bootstraps: Vec<Server> = Vec::new();
    for BootstrapArg { id, address } in args.bootstrap {
        match bootstraps.iter_mut().find(|server| server.id == id) {
            Some(server) => server.addresses.push(address),
            None => bootstraps.push(Server {
                id,
                addresses: vec![address],
            }),
        }
    }
    let listen_tcp = if args.listen_tcp.is_empty() {
        vec![args.listen]
    } else {
        args.listen_tcp
    };
    let config = Config {
        state_dir,
        listen: args.listen,
        listen_tcp,
        advertise: args.advertise,
        pool: args.state.pool,
        network: args.network,
        bootstraps,
    };
    let mut coordinator = Coordinator::start(config, show_phrase).await?;
    announce(&coordinator, json).await?;
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        why = coordinator.ended() => Some(why),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    coordinator.shutdown().await;
    match ended {
        None => Ok(()),
        Some(why) => Err(anyhow::anyhow!(why)),
    }
}

/// Prints what the next machine needs. The first to join by the invite owns the network, if nobody does yet.
async fn announce(coordinator: &Coordinator, json: bool) -> anyhow::Result<()> {
    let service = &coordinator.service;
    let founder = InviteOptions {
        founder: true,
        ..InviteOptions::default()
    };
    let invite = match service
        .make_invite(coordinator.network.network, founder)
        .await
    {
        Ok(made) => Some(made.link),
        Err(ServiceError::Recovery(why)) => {
            writeln!(io::stderr(), "{why}")?;
            None
        }
        Err(error) => return Err(error.into()),
    };
    let listen: Vec<String> = coordinator
        .addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    let public = coordinator.addresses().iter().any(Address::is_public);
    let mut out = io::stdout().lock();
    if json {
        let line = json!({
            "org": service.org().to_string(),
            "invite": invite,
            "listen": listen,
            "id": service.identity().to_string(),
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "organisation  {}", service.org())?;
        writeln!(out, "coordinator   {}", service.identity())?;
        writeln!(out, "listening on  {}", listen.join(", "))?;
        if let Some(invite) = invite {
            writeln!(out, "invite        kanpachi join '{invite}'")?;
        }
    }
    out.flush()?;
    if !public {
        writeln!(
            io::stderr(),
            "warning: all addresses are private, machines elsewhere on the Internet will not get here: name a public one with --advertise"
        )?;
    }
    Ok(())
}
