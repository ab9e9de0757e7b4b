//! The verbs that change networks, as they are typed.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::{cli::args::node_name, ipc::query::check_target};

/// Verbs that change a network, or whether this machine is there at all.
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Make a network; this machine is its owner
    ///
    /// Other machines of the organisation join it by its password, everybody else by an invite. Without a password it is
    /// entered by invite only. On a terminal the password is asked for.
    #[command(after_help = "\
Examples:
  sudo kanpachi create games
  sudo kanpachi create games --password-file secret.txt
  pass show games | sudo kanpachi create games --password-file -
  others join it      sudo kanpachi join games")]
    Create {
        /// Name of the network
        #[arg(value_parser = node_name)]
        network: String,
        /// Its password.
        #[command(flatten)]
        password: PasswordFile,
    },

    /// Leave a network
    ///
    /// Its only owner says who is owner next, or deletes it. Whoever is its only member ends it by leaving.
    #[command(after_help = "\
Examples:
  sudo kanpachi leave games
  sudo kanpachi leave games --heir lamp")]
    Leave {
        /// Name of the network
        #[arg(value_parser = node_name)]
        network: String,
        /// Who is owner next
        #[arg(long, value_name = "MEMBER", value_parser = member)]
        heir: Option<String>,
    },

    /// End a network for everybody in it
    #[command(after_help = "\
Examples:
  sudo kanpachi delete games")]
    Delete {
        /// Name of the network
        #[arg(value_parser = node_name)]
        network: String,
    },

    /// Put a member out of a network
    ///
    /// Every member drops its tunnel to it at once. It comes back only by a new invite; the invites that it came by, made or
    /// could have seen are revoked. Since it may know the password of the network, that should change.
    #[command(after_help = "\
Examples:
  sudo kanpachi evict games lamp
  sudo kanpachi evict games 090-736-821 --set-password      a new password in the same step
  sudo kanpachi evict games lamp --password-file new.txt")]
    Evict {
        /// Name of the network
        #[arg(value_parser = node_name)]
        network: String,
        /// Name, virtual address, client id or node id
        #[arg(value_parser = member)]
        member: String,
        /// Give the network a new password in the same step; asked for on a terminal
        #[arg(long)]
        set_password: bool,
        /// The new password of the network.
        #[command(flatten)]
        password: PasswordFile,
    },

    /// Give a network a password, another one, or none
    ///
    /// Whoever is in stays in. On a terminal the password is asked for.
    #[command(after_help = "\
Examples:
  sudo kanpachi set-password games
  sudo kanpachi set-password games --password-file new.txt
  sudo kanpachi set-password games --remove                 from now on by invite only")]
    SetPassword {
        /// Name of the network
        #[arg(value_parser = node_name)]
        network: String,
        /// The new password.
        #[command(flatten)]
        password: PasswordFile,
        /// Take the password away: the network is entered by invite only
        #[arg(long, conflicts_with = "password_file")]
        remove: bool,
    },

    /// Say whether a network takes new members, and whether an owner has to approve them
    #[command(after_help = "\
Examples:
  sudo kanpachi set-access games lock            nobody new, by password or invite
  sudo kanpachi set-access games unlock manual   whoever joins waits for an owner
  sudo kanpachi set-access games auto            whoever joins is in")]
    SetAccess {
        /// Name of the network
        #[arg(value_parser = node_name)]
        network: String,
        /// One or both, in any order: lock or unlock, manual or auto
        #[arg(required = true, num_args = 1..=2, value_name = "lock|unlock|manual|auto", hide_possible_values = true)]
        words: Vec<AccessWord>,
    },

    /// Let a waiting member into a network
    #[command(after_help = "\
Examples:
  sudo kanpachi approve games 090-736-821        kanpachi list shows who waits")]
    Approve {
        /// Name of the network
        #[arg(value_parser = node_name)]
        network: String,
        /// Name, client id or node id
        #[arg(value_parser = member)]
        member: String,
    },

    /// Do not let a waiting member into a network
    ///
    /// It may ask again; lock the network or change its password if that is too much.
    #[command(after_help = "\
Examples:
  sudo kanpachi reject games 090-736-821")]
    Reject {
        /// Name of the network
        #[arg(value_parser = node_name)]
        network: String,
        /// Name, client id or node id
        #[arg(value_parser = member)]
        member: String,
    },

    /// Make a member an owner of a network, or an owner a member
    #[command(after_help = "\
Examples:
  sudo kanpachi set-role games lamp owner
  sudo kanpachi set-role games lamp member")]
    SetRole {
        /// Name of the network
        #[arg(value_parser = node_name)]
        network: String,
        /// Name, virtual address, client id or node id
        #[arg(value_parser = member)]
        member: String,
        /// What it may do
        #[arg(value_name = "owner|member", hide_possible_values = true)]
        role: Role,
    },

    /// Be there again in a network
    #[command(after_help = "\
Examples:
  sudo kanpachi go-online games")]
    GoOnline {
        /// Name of the network
        #[arg(value_parser = node_name)]
        network: String,
    },

    /// Stay a member of a network without being there
    ///
    /// Nobody reaches this machine by that network, nor this machine them, until `kanpachi go-online`; a restart does not
    /// change that.
    #[command(after_help = "\
Examples:
  sudo kanpachi go-offline games")]
    GoOffline {
        /// Name of the network
        #[arg(value_parser = node_name)]
        network: String,
    },

    /// Connect this machine again after `kanpachi logout`
    #[command(after_help = "\
Examples:
  sudo kanpachi login")]
    Login,

    /// Take this machine offline in all networks, until `kanpachi login`
    ///
    /// The daemon goes on running, without tunnels and without an adapter, also over a restart.
    #[command(after_help = "\
Examples:
  sudo kanpachi logout")]
    Logout,
}

/// Where a password comes from. Never from the command line itself: everybody on this machine can read that.
#[derive(Args, Clone, Debug)]
pub struct PasswordFile {
    /// A file with the password, or `-` to read it from standard input; one line break at its end does not count
    #[arg(long, value_name = "FILE|-")]
    pub password_file: Option<PathBuf>,
}

/// What `set-access` sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessWord {
    /// Nobody new.
    Lock,
    /// Whoever has password or invite.
    Unlock,
    /// Owners approve.
    Manual,
    /// At once.
    Auto,
}

/// What `set-role` gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// May change the network.
    Owner,
    /// Is in it.
    Member,
}

fn member(text: &str) -> Result<String, String> {
    check_target(text)
        .map(|()| text.to_owned())
        .map_err(|error| error.message)
}
