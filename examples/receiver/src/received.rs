//! The log of received callbacks, with their senders.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use axum::{extract::FromRequestParts, http::request::Parts};
use callback_source::{
    Allowed, CallbackRejection, ExtractorRejection, MessageAuth, MessageVerdict, Policy, Verdict,
    VerifiedCallback, VerifiedMessage, verify::NotVerified,
};
use serde::Serialize;
use tokio::time::Instant;
use tracing::info;

use crate::bodies::{
    AgreementEvent, ChargeEvent, CheckIn, Checkout, EpaymentEvent, Payment, ShippingAddress,
    Webhook,
};

/// The last hundred callbacks.
#[derive(Debug, Default)]
pub(crate) struct Log {
    newest_first: Mutex<VecDeque<Received>>,
}

impl Log {
    /// Adds a callback. Drops the oldest callback if there would be more than a hundred.
    pub(crate) fn add(&self, event: Event, caller: &Caller) {
        let at = Instant::now();
        let sender = Sender::new(&caller.source);
        let checks = caller.checks.as_ref().map(Checks::new);
        // The log line omits the event itself, because the event contains personal data.
        info!(kind = event.kind(), ?sender, ?checks, "callback received");
        let mut log = self.lock();
        log.truncate(KEPT - 1);
        log.push_front(Received {
            at,
            event,
            sender,
            checks,
        });
    }

    /// All entries, newest first.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let now = Instant::now();
        let log = self.lock();
        log.iter().map(|received| received.entry(now)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Received>> {
        let log = self.newest_first.lock();
        log.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The layers' verdicts on a callback.
#[derive(Debug)]
pub(crate) struct Caller {
    source: Verdict,
    /// The joined verdict of both checks, on a route with a message check.
    checks: Option<Result<VerifiedCallback, CallbackRejection>>,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ExtractorRejection<NotVerified>;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let source = <Verdict as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        let extensions = &parts.extensions;
        let checks = extensions.get::<MessageVerdict>().map(|_| {
            // `RequireVerified` inserts this value. In tagging mode, that layer is absent.
            let verified = extensions.get::<VerifiedCallback>().cloned();
            verified.map_or_else(
                || VerifiedCallback::from_extensions(extensions, Policy::Both),
                Ok,
            )
        });
        Ok(Self { source, checks })
    }
}

/// A callback, with the field names of its API.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub(crate) enum Event {
    EcomPayment {
        order_id: String,
        body: Box<Payment>,
    },
    EcomShipping {
        order_id: String,
        body: ShippingAddress,
    },
    EcomConsentRemoval {
        user_id: String,
    },
    Epayment {
        body: Box<EpaymentEvent>,
    },
    RecurringCharge {
        body: ChargeEvent,
    },
    RecurringAgreement {
        body: AgreementEvent,
    },
    QrCheckIn {
        body: CheckIn,
    },
    Checkout {
        body: Box<Checkout>,
    },
}

impl Event {
    /// The name of the variant, with dashes.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::EcomPayment { .. } => "ecom-payment",
            Self::EcomShipping { .. } => "ecom-shipping",
            Self::EcomConsentRemoval { .. } => "ecom-consent-removal",
            Self::Epayment { .. } => "epayment",
            Self::RecurringCharge { .. } => "recurring-charge",
            Self::RecurringAgreement { .. } => "recurring-agreement",
            Self::QrCheckIn { .. } => "qr-check-in",
            Self::Checkout { .. } => "checkout",
        }
    }
}

impl From<Webhook> for Event {
    fn from(webhook: Webhook) -> Self {
        match webhook {
            Webhook::Epayment(body) => Self::Epayment { body },
            Webhook::Charge(body) => Self::RecurringCharge { body },
            Webhook::Agreement(body) => Self::RecurringAgreement { body },
            Webhook::CheckIn(body) => Self::QrCheckIn { body },
        }
    }
}

/// A callback as `GET /received` shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    kind: &'static str,
    seconds_ago: u64,
    #[serde(flatten)]
    sender: Sender,
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<Checks>,
    #[serde(flatten)]
    event: Event,
}

#[derive(Debug)]
struct Received {
    at: Instant,
    event: Event,
    sender: Sender,
    checks: Option<Checks>,
}

impl Received {
    fn entry(&self, now: Instant) -> Entry {
        Entry {
            kind: self.event.kind(),
            seconds_ago: now.saturating_duration_since(self.at).as_secs(),
            sender: self.sender.clone(),
            checks: self.checks.clone(),
            event: self.event.clone(),
        }
    }
}

/// The sender of a callback, with the host or network to which its address belongs, or with the reason for its refusal.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum Sender {
    Listed {
        peer: IpAddr,
        #[serde(flatten)]
        by: ListedBy,
        freshness: &'static str,
        known_for_seconds: u64,
    },
    Refused {
        peer: Option<IpAddr>,
        reason: &'static str,
    },
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum ListedBy {
    Host(String),
    Network(String),
}

impl Sender {
    fn new(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Allow(allowed) => Self::Listed {
                peer: allowed.peer(),
                by: ListedBy::new(allowed),
                freshness: allowed.freshness().as_str(),
                known_for_seconds: allowed.age().as_secs(),
            },
            Verdict::Reject(rejection) => Self::Refused {
                peer: rejection.peer(),
                reason: rejection.kind().as_str(),
            },
        }
    }
}

impl ListedBy {
    fn new(allowed: &Allowed) -> Self {
        match (allowed.host(), allowed.network()) {
            (Some(host), _) => Self::Host(host.to_string()),
            (None, Some(network)) => Self::Network(network.to_string()),
            (None, None) => Self::Network(allowed.peer().to_string()),
        }
    }
}

/// The joined result of both checks.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Checks {
    Passed(&'static str),
    Refused(String),
}

impl Checks {
    fn new(checks: &Result<VerifiedCallback, CallbackRejection>) -> Self {
        match checks {
            Ok(verified) => Self::Passed(match verified.message().map(VerifiedMessage::auth) {
                Some(MessageAuth::Signature) => "signature",
                Some(MessageAuth::Token) => "token",
                _ => "other",
            }),
            // The text names reasons and headers, and contains no value from the request.
            Err(rejection) => Self::Refused(rejection.to_string()),
        }
    }
}

const KEPT: usize = 100;
