//! Running the system's network tools (`ip`, `nft`, …) and failing with their own words.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a program to its end and returns stdout.
///
/// # Errors
/// If it is not installed or does not exit with 0; the message holds the command and its stderr.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    feed(program, args, "")
}

/// Like [`run`], with `input` on stdin.
pub fn feed(program: &str, args: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{program}`: is it installed?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that stops reading reports why on stderr, which is the better message.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "`{program} {}` failed: {}{input}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
