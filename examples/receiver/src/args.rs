//! The command line.

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
/// Shows the last hundred callbacks at `GET /received`, to this machine only.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Address to listen on
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Environment whose callback servers are admitted; `production` includes disaster recovery
    #[arg(long, value_name = "production|test", default_value_t = Environment::Production)]
    pub environment: Environment,

    /// DNS server to use in place of the system's; may be repeated
    #[arg(long, value_name = "IP:PORT", value_parser = dns_server)]
    pub dns_server: Vec<SocketAddr>,

    /// Use a DNS server in this process that resolves the callback servers to loopback addresses
    #[arg(long, conflicts_with = "dns_server")]
    pub embedded_dns: bool,

    /// Accept loopback, private and other special-purpose addresses in DNS answers; for trials only
    #[arg(long)]
    pub allow_special_addresses: bool,

    /// Receive callbacks from every peer and only record what rejecting would do
    #[arg(long)]
    pub tag: bool,

    /// Check the signature of webhooks with the secret in this file; a line break at its end is ignored
    /// [env: RECEIVER_WEBHOOK_SECRET, the secret itself]
    #[arg(long, value_name = "PATH")]
    pub webhook_secret_file: Option<PathBuf>,

    /// Require this `Authorization` value of eCom and Checkout callbacks; the process list shows it when
    /// given as an argument
    #[arg(
        long,
        value_name = "VALUE",
        env = "RECEIVER_TOKEN",
        hide_env_values = true,
        value_parser = GivenToken::parse
    )]
    pub token: Option<GivenToken>,
}

impl Args {
    /// The treatment of a callback that fails a check.
    #[must_use]
    pub fn mode(&self) -> Mode {
        if self.tag { Mode::Tag } else { Mode::Reject }
    }

    /// True if special-purpose addresses are accepted, which an embedded DNS server implies.
    #[must_use]
    pub fn accepts_special_addresses(&self) -> bool {
        self.allow_special_addresses || self.embedded_dns
    }
}

/// A token, or the reason why it is invalid.
///
/// The argument parser accepts an invalid token, because the parser's error message would show the token.
#[derive(Clone, Debug)]
pub struct GivenToken(pub Result<Token, SecretError>);

impl GivenToken {
    #[expect(
        clippy::unnecessary_wraps,
        reason = "clap expects a parser that can fail"
    )]
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
