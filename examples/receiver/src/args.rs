//! What was typed.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use callback_source::{
    signature::{SecretError, Token},
    vipps::Environment,
};
use clap::Parser;

use crate::app::Mode;

/// Receives every callback of Vipps MobilePay, from its callback servers only.
///
/// Shows the last hundred at `GET /received`, to this machine.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Where to listen
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Whose callback servers may call; `production` includes those for disaster recovery
    #[arg(long, value_name = "production|test", default_value_t = Environment::Production)]
    pub environment: Environment,

    /// A DNS server to ask, in place of the system's; may be repeated
    #[arg(long, value_name = "IP:PORT", value_parser = dns_server)]
    pub dns_server: Vec<SocketAddr>,

    /// Ask a DNS server in this process that puts the callback servers at loopback addresses
    #[arg(long, conflicts_with = "dns_server")]
    pub embedded_dns: bool,

    /// Believe loopback, private and other special addresses in DNS answers; only for trying out
    #[arg(long)]
    pub allow_special_addresses: bool,

    /// Receive callbacks from anybody, and only record who would have been refused
    #[arg(long)]
    pub tag: bool,

    /// Ask webhooks for a signature with the secret in this file; a line break at its end does not
    /// count [env: CALLBACK_SOURCE_WEBHOOK_SECRET, the secret itself]
    #[arg(long, value_name = "PATH")]
    pub webhook_secret_file: Option<PathBuf>,

    /// Ask eCom and Checkout callbacks for this `Authorization` value; given as an argument it shows in
    /// the list of processes
    #[arg(
        long,
        value_name = "VALUE",
        env = "CALLBACK_SOURCE_TOKEN",
        hide_env_values = true,
        value_parser = GivenToken::parse
    )]
    pub token: Option<GivenToken>,
}

impl Args {
    /// What becomes of a callback that does not come from a callback server.
    #[must_use]
    pub fn mode(&self) -> Mode {
        if self.tag { Mode::Tag } else { Mode::Reject }
    }

    /// Whether special addresses are believed, which an embedded DNS server implies.
    #[must_use]
    pub fn believes_special_addresses(&self) -> bool {
        self.allow_special_addresses || self.embedded_dns
    }
}

/// A token, or why it is none.
///
/// That is not left to the parser of arguments, whose message would show the token.
#[derive(Clone, Debug)]
pub struct GivenToken(pub Result<Token, SecretError>);

impl GivenToken {
    #[expect(clippy::unnecessary_wraps, reason = "parsers of arguments can fail")]
    fn parse(text: &str) -> Result<Self, Infallible> {
        Ok(Self(Token::new(text)))
    }
}

fn dns_server(text: &str) -> Result<SocketAddr, &'static str> {
    let with_port = text.parse();
    with_port
        .or_else(|_| text.parse().map(|ip: IpAddr| (ip, DNS_PORT).into()))
        .map_err(|_| "give an address and a port, such as `192.0.2.53:53`, not a name")
}

const DNS_PORT: u16 = 53;
