//! What each verb does. All but `host`, `up` and (with no daemon) `join` are a request to the daemon and an answer shown.

use std::{
    future::Future,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    Entry, Running,
    args::{Cli, Command, Global, Host},
    by_code::{self, ByCode},
    console::Console,
    drill, generate, json_line, logging, netcheck,
    networks::{self, Order, Target, args::NetworkCommand},
    password::Terminal,
    render::{self, Look, PingSummary},
    service::{self, AsService},
    steps::{Progress, Silent, Spoken},
};
use crate::{
    ipc::{
        api::{InviteRequest, PingRequest, Secret},
        client::Client,
        drill::DrillReply,
        error::{ApiError, code},
        query::check_invite,
    },
    options::{DEFAULT_NETWORK, HostOptions, Recover},
    platform::{Native, Platform as _},
};

/// Pings sent unless a number is given, and how many at the most while the path is not direct.
const PINGS: u32 = 5;
const PINGS_UNTIL_DIRECT: u32 = 20;

/// Bytes of an invite on standard input.
const MAX_STDIN: u64 = 8 * 1024;

/// Does what was asked for.
///
/// # Errors
/// What to tell the user, and the exit code that goes with it.
pub fn run(cli: Cli, entry: Entry, console: Console) -> Result<(), ApiError> {
    let default = match &cli.command {
        Command::Up { .. } => "info",
        // In a log file there is room for more than on a screen that shows the steps anyway.
        Command::Host(_) | Command::Join { .. } if !console.out_terminal => "info",
        _ => "warn",
    };
    let level = cli
        .global
        .log_level
        .as_deref()
        .filter(|level| !level.is_empty())
        .unwrap_or(default);
    logging::start(console, logging::filter(level).map_err(ApiError::usage)?);
    let session = Session {
        client: Client::new(cli.global.socket()),
        global: cli.global,
        entry,
        console,
    };
    match cli.command {
        Command::Host(host) => session.host(host),
        Command::Up { listen } => session.up(listen),
        Command::Join {
            target,
            by_code,
            password,
            as_service,
        } => session.join(
            target.as_ref().map(|text| text.as_str()),
            &by_code,
            password.password_file.as_deref(),
            &as_service,
        ),
        Command::Service { command } => {
            let reply = service::run(&command, &session.global)?;
            session.show(&reply, |_| reply.text());
            Ok(())
        }
        Command::Generate { what } => generate::run(&what, console),
        other => block_on(session.ask(other))?,
    }
}

/// One run of the program.
pub(super) struct Session {
    client: Client,
    global: Global,
    entry: Entry,
    console: Console,
}

impl Session {
    fn host(&self, host: Host) -> Result<(), ApiError> {
        let start = self.entry.host.ok_or_else(|| not_built("host"))?;
        let progress = self.progress(&host.network);
        let options = HostOptions {
            daemon: self.global.daemon(None),
            network: host.network,
            listen: host.listen,
            listen_tcp: host.listen_tcp,
            advertise: host.advertise,
            pool: host.pool,
            node: !host.no_node,
            recover: host.recover.then_some(Recover {
                incomplete: host.incomplete,
            }),
            relay: !host.no_relay,
            lan: !host.no_lan,
        };
        become_daemon(Threads::PerCore, || start(options, progress))
    }

    fn up(&self, listen: Option<u16>) -> Result<(), ApiError> {
        let start = self.entry.node.ok_or_else(|| not_built("up"))?;
        let options = self.global.daemon(listen);
        let progress = self.progress(DEFAULT_NETWORK);
        become_daemon(Threads::One, || start(options, progress))
    }

    fn join(
        &self,
        target: Option<&str>,
        by_code: &ByCode,
        password: Option<&Path>,
        as_service: &AsService,
    ) -> Result<(), ApiError> {
        let target = match target {
            Some(target) => networks::target(target)?,
            None if password.is_some() => {
                return Err(
                    ApiError::usage("--password-file goes with the name of a network")
                        .hint("kanpachi join NETWORK --password-file FILE"),
                );
            }
            None => {
                self.may_join(as_service)?;
                let screen = by_code::Screen::new(self.console, self.global.json);
                Target::Invite(by_code.invite(&self.global.interface, &screen)?)
            }
        };
        let invite = match target {
            Target::Network(_) if as_service.service => {
                return Err(ApiError::usage("--service goes with an invite")
                    .hint("kanpachi service install; then kanpachi join NETWORK"));
            }
            Target::Network(network) => return self.join_network(network, password),
            Target::Stdin => read_invite(self.console)?,
            Target::Invite(invite) => invite,
        };
        if password.is_some() {
            return Err(ApiError::usage("an invite needs no password"));
        }
        if as_service.service {
            block_on(service::start(as_service, &self.global, &self.client))??;
        }
        if block_on(self.client.is_running())?? {
            let reply = block_on(self.client.join(invite))??;
            self.show(&reply, |look| render::joined(&reply, look));
            return Ok(());
        }
        let start = self
            .entry
            .node
            .ok_or_else(|| not_built("join without a running daemon"))?;
        let mut options = self.global.daemon(None);
        options.join = Some(invite);
        let progress = self.progress(DEFAULT_NETWORK);
        become_daemon(Threads::One, || start(options, progress))
    }

    /// Whoever could not join anyway is told before a code is typed.
    fn may_join(&self, as_service: &AsService) -> Result<(), ApiError> {
        if as_service.service {
            return Ok(());
        }
        if block_on(self.client.is_running())?? {
            return block_on(self.client.check_permission())?;
        }
        let interface = self.global.daemon(None).interface;
        let checked = Native::default().check_adapter(&interface);
        checked.map_err(|error| ApiError::from(&error))
    }

    fn join_network(&self, network: String, password: Option<&Path>) -> Result<(), ApiError> {
        let terminal = Terminal::new(self.console, self.global.json);
        let request = networks::join(network, password, &terminal)?;
        block_on(async {
            let reply = self.client.join_network(&request).await?;
            let id = self.client_id(!reply.waiting.is_empty()).await;
            self.show(&reply, |look| {
                render::entered(&request.network, &reply, id.as_deref(), look)
            });
            Ok(())
        })?
    }

    /// By what an owner would let this machine in, if that is what it waits for.
    async fn client_id(&self, waiting: bool) -> Option<String> {
        if !waiting || self.global.json {
            return None;
        }
        let id = self.client.status().await.ok()?.client_id;
        (!id.is_empty()).then_some(id)
    }

    async fn order(&self, command: NetworkCommand) -> Result<(), ApiError> {
        let terminal = Terminal::new(self.console, self.global.json);
        match networks::order(command, &terminal)? {
            Order::Create(request) => {
                let reply = self.client.create(&request).await?;
                let password = request.password.is_some();
                self.show(&reply, |look| {
                    render::created(&request.network, password, look)
                });
            }
            Order::Change(request) => {
                let reply = self.client.change(&request).await?;
                self.show(&reply, |look| render::changed(&request, &reply, look));
            }
            Order::LoggedIn(wanted) => {
                let reply = self.client.set_logged_in(wanted).await?;
                self.show(&reply, |_| render::session(&reply));
            }
        }
        Ok(())
    }

    async fn ask(&self, command: Command) -> Result<(), ApiError> {
        match command {
            Command::Status => {
                let reply = self.client.status().await?;
                self.show(&reply, |look| render::status(&reply, look));
            }
            Command::List => {
                let reply = self.client.list().await?;
                self.show(&reply, |look| render::list(&reply, look));
            }
            Command::Peer { target } => {
                let reply = self.client.peer(&target).await?;
                self.show(&reply, |look| render::peer(&reply, look));
            }
            Command::Netcheck { server } => {
                let reply = if server.is_empty() {
                    self.client.netcheck().await?
                } else {
                    netcheck::alone(&server).await?
                };
                self.show(&reply, |look| render::netcheck(&reply, look));
            }
            Command::Ping { target, count } => self.ping(target, count).await?,
            Command::Invite {
                network,
                uses,
                expires,
            } => {
                let request = InviteRequest {
                    network,
                    uses,
                    expires_s: expires.as_secs(),
                };
                let reply = self.client.invite(&request).await?;
                self.show(&reply, |look| {
                    render::invite(&reply, self.console.out_terminal, look)
                });
            }
            Command::Networks(command) => self.order(command).await?,
            Command::SetNick { name } => {
                let reply = self.client.set_nick(name.clone()).await?;
                self.show(&reply, |_| render::renamed(&name, &reply));
            }
            Command::Drill { command } => drill::run(self, command).await?,
            Command::Down => {
                let reply = self.client.down().await?;
                self.show(&reply, |_| {
                    format!("the daemon (process {}) has stopped\n", reply.pid)
                });
            }
            // They are not questions, and have been dealt with.
            Command::Host(_)
            | Command::Up { .. }
            | Command::Join { .. }
            | Command::Service { .. }
            | Command::Generate { .. }
            | Command::Hamachi { .. } => {}
        }
        Ok(())
    }

    /// A ping each second, to the number asked for; otherwise [`PINGS`], and more while a relay is in between.
    async fn ping(&self, target: String, count: Option<u32>) -> Result<(), ApiError> {
        let most = count.unwrap_or(PINGS_UNTIL_DIRECT);
        let mut answers = self
            .client
            .ping(&PingRequest::new(target.clone(), most))
            .await?;
        let mut summary = PingSummary::default();
        let stop = tokio::signal::ctrl_c();
        tokio::pin!(stop);
        loop {
            let next = tokio::select! {
                next = answers.next() => next?,
                _ = &mut stop => None,
            };
            let Some(reply) = next else { break };
            summary.add(&reply);
            self.show(&reply, |look| render::pong(&reply, look));
            if count.is_none() && summary.is_enough(PINGS) {
                break;
            }
        }
        if !self.global.json {
            self.console.print(&summary.render());
        }
        if summary.answered() > 0 {
            return Ok(());
        }
        Err(
            ApiError::unreachable(code::NO_ANSWER, format_args!("{target} does not answer")).hint(
                format_args!("is it on? kanpachi peer {target} shows what is known about it"),
            ),
        )
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn show_drill(&self, reply: &DrillReply) {
        self.show(reply, |look| render::drill(reply, look));
    }

    /// Where a starting daemon reports to.
    fn progress(&self, network: &str) -> Arc<dyn Progress> {
        if self.global.json {
            Arc::new(Silent::new(self.console))
        } else {
            Arc::new(Spoken::new(self.console, network))
        }
    }

    fn show(&self, reply: &impl Serialize, human: impl FnOnce(&Look) -> String) {
        let text = if self.global.json {
            json_line(reply)
        } else {
            human(&self.console.out())
        };
        self.console.print(&text);
    }
}

fn become_daemon(threads: Threads, start: impl FnOnce() -> Running) -> Result<(), ApiError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads == Threads::One {
        builder.worker_threads(1);
    }
    // The future is made inside of the runtime: it may want to spawn at once.
    run_on(builder, async { start().await })?.map_err(|error| ApiError::of(&error))
}

/// What still runs when a command is done is given this long.
const LEFTOVERS: Duration = Duration::from_secs(1);

/// Threads for the tasks of a daemon; packets have their own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Threads {
    /// A node has little to do, and where there are several each thing that happens wakes two.
    One,
    /// A host serves everybody.
    PerCore,
}

/// Asks something: one thread is enough.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> Result<T, ApiError> {
    run_on(tokio::runtime::Builder::new_current_thread(), future)
}

fn run_on<T>(
    mut builder: tokio::runtime::Builder,
    future: impl Future<Output = T>,
) -> Result<T, ApiError> {
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| ApiError::failed(code::FAILED, format_args!("cannot start: {error}")))?;
    let outcome = runtime.block_on(future);
    // A name that is still being looked up is of no use any more, and with a dead DNS that takes half a minute.
    runtime.shutdown_timeout(LEFTOVERS);
    Ok(outcome)
}

fn not_built(what: &str) -> ApiError {
    ApiError::failed(
        code::FAILED,
        format_args!("this build of kanpachi cannot {what}"),
    )
}

/// The invite from standard input, known to be one.
fn read_invite(console: Console) -> Result<Secret, ApiError> {
    if io::IsTerminal::is_terminal(&io::stdin()) {
        console.print_err("Paste the invite and press Enter, then Ctrl-D:\n");
    }
    let text = read_bounded(io::stdin().lock())?;
    let text = Zeroizing::new(text.trim().to_owned());
    check_invite(&text)?;
    Ok(text.into())
}

fn read_bounded(input: impl io::Read) -> Result<Zeroizing<String>, ApiError> {
    let mut text = Zeroizing::new(String::new());
    input
        .take(MAX_STDIN + 1)
        .read_to_string(&mut text)
        .map_err(|error| {
            ApiError::usage(format_args!(
                "the invite cannot be read from standard input: {error}"
            ))
        })?;
    if text.len() as u64 > MAX_STDIN {
        return Err(ApiError::usage(format_args!(
            "more than {MAX_STDIN} bytes on standard input: that is no invite"
        )));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::ipc::ExitCode;

    #[test]
    fn an_end_waits_for_no_name_that_is_being_looked_up() {
        let (answer, looking_up) = mpsc::channel::<()>();
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || {
            let done = block_on(async move {
                let (begun, begin) = tokio::sync::oneshot::channel();
                tokio::task::spawn_blocking(move || {
                    let _ = begun.send(());
                    let _ = looking_up.recv();
                });
                begin.await.is_ok()
            });
            let _ = ended.send(done.is_ok_and(|begun| begun));
        });
        assert_eq!(end.recv_timeout(Duration::from_secs(20)), Ok(true));
        drop(answer);
    }

    #[test]
    fn standard_input_is_bounded_and_must_be_text() {
        assert_eq!(read_bounded(&b"abc\n"[..]).unwrap().as_str(), "abc\n");
        let long = vec![b'x'; 9000];
        assert_eq!(read_bounded(&long[..]).unwrap_err().exit, ExitCode::Usage);
        assert_eq!(read_bounded(&long[..8192]).unwrap().len(), 8192);
        assert_eq!(
            read_bounded(&[0xff, 0xfe][..]).unwrap_err().exit,
            ExitCode::Usage
        );
    }
}
