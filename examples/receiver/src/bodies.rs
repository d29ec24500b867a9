//! The bodies of the callbacks.
//!
//! Required are the fields that make a body what it is, and those without which it is of no use.
//! All others are optional, and unknown fields, states and event names are accepted, since the
//! provider adds some without notice.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Number, Value};

/// A body that one of the routes takes.
pub(crate) trait Callback: DeserializeOwned {
    /// What it is and which fields it cannot do without, for whoever sent something else.
    const EXPECTED: &'static str;
}

/// eCom v2: the outcome of a payment.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Payment {
    /// The merchant's sales unit.
    pub(crate) merchant_serial_number: Option<Id>,
    /// The merchant's name of the order.
    pub(crate) order_id: String,
    /// What happened.
    pub(crate) transaction_info: TransactionInfo,
    /// Why it failed, where it did.
    pub(crate) error_info: Option<Value>,
    /// Express only: where the goods go, and how.
    pub(crate) shipping_details: Option<Shipment>,
    /// Express only: who paid.
    pub(crate) user_details: Option<UserDetails>,
}

impl Callback for Payment {
    const EXPECTED: &'static str = "an eCom payment callback, with at least `orderId` and \
         `transactionInfo`, and in that `status` and `transactionId`";
}

/// What happened to an eCom payment.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TransactionInfo {
    /// In the minor unit of the currency.
    pub(crate) amount: Option<i64>,
    /// `RESERVED`, `RESERVE`, `SALE`, `RESERVE_FAILED`, `SALE_FAILED`, `CANCELLED`, `REJECTED`, …
    pub(crate) status: String,
    /// When it happened.
    pub(crate) time_stamp: Option<String>,
    /// The provider's name of the transaction.
    pub(crate) transaction_id: Id,
}

/// Where the goods of an eCom Express order go, and how.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shipment {
    /// Where to.
    pub(crate) address: Option<ShipmentAddress>,
    /// In the major unit of the currency.
    pub(crate) shipping_cost: Option<Number>,
    /// As the customer saw it.
    pub(crate) shipping_method: Option<String>,
    /// As the merchant named it.
    pub(crate) shipping_method_id: Option<String>,
}

/// The address that an eCom Express order goes to.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShipmentAddress {
    /// Street and number.
    pub(crate) address_line1: Option<String>,
    /// What did not fit in the first line.
    pub(crate) address_line2: Option<String>,
    /// The post town.
    pub(crate) city: Option<String>,
    /// Name or code.
    pub(crate) country: Option<String>,
    /// The postal code.
    pub(crate) zip_code: Option<Id>,
}

/// Who paid an eCom Express order.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UserDetails {
    /// The given name.
    pub(crate) first_name: Option<String>,
    /// The family name.
    pub(crate) last_name: Option<String>,
    /// The mail address.
    pub(crate) email: Option<String>,
    /// The phone number.
    pub(crate) mobile_number: Option<Id>,
    /// What a later consent removal names.
    pub(crate) user_id: Option<String>,
}

/// eCom v2: an address that the shipping methods are asked for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShippingAddress {
    /// Has to be repeated in the answer.
    pub(crate) address_id: i64,
    /// Street and number.
    pub(crate) address_line1: Option<String>,
    /// What did not fit in the first line.
    pub(crate) address_line2: Option<String>,
    /// Name or code.
    pub(crate) country: String,
    /// The post town.
    pub(crate) city: Option<String>,
    /// The postal code.
    pub(crate) post_code: Option<Id>,
    /// `H` for home, …
    pub(crate) address_type: Option<String>,
}

impl Callback for ShippingAddress {
    const EXPECTED: &'static str =
        "an eCom shipping address, with at least `addressId` (a number) and `country`";
}

/// eCom v2: the shipping methods that the customer can choose from.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShippingMethods {
    /// As asked.
    pub(crate) address_id: i64,
    /// As asked.
    pub(crate) order_id: String,
    /// What there is.
    pub(crate) shipping_details: Vec<ShippingMethod>,
}

/// One way to ship the goods.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShippingMethod {
    /// `Y` for the one that is chosen at first, `N` for the others.
    pub(crate) is_default: &'static str,
    /// The place in the list.
    pub(crate) priority: u32,
    /// In the major unit of the currency.
    pub(crate) shipping_cost: u32,
    /// What the customer sees.
    pub(crate) shipping_method: &'static str,
    /// What the payment callback names later.
    pub(crate) shipping_method_id: &'static str,
}

impl ShippingMethods {
    /// What a shop with two ways to ship answers, wherever the goods go.
    pub(crate) fn from_shop(address_id: i64, order_id: String) -> Self {
        Self {
            address_id,
            order_id,
            shipping_details: vec![
                ShippingMethod {
                    is_default: "Y",
                    priority: 1,
                    shipping_cost: 0,
                    shipping_method: "Pick up in the shop",
                    shipping_method_id: "pick-up",
                },
                ShippingMethod {
                    is_default: "N",
                    priority: 2,
                    shipping_cost: 79,
                    shipping_method: "Home delivery",
                    shipping_method_id: "home-delivery",
                },
            ],
        }
    }
}

/// A delivery of the Webhooks API, told apart by the fields it has.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Webhook {
    /// ePayment.
    Epayment(Box<EpaymentEvent>),
    /// Recurring, of a charge. Has all that identifies an agreement's event, so it is tried before.
    Charge(ChargeEvent),
    /// Recurring, of an agreement.
    Agreement(AgreementEvent),
    /// QR.
    CheckIn(CheckIn),
}

impl Callback for Webhook {
    const EXPECTED: &'static str = "an event of ePayment (with at least `msn`, `reference`, \
         `pspReference` and `name`), of Recurring (`agreementId` and `eventType`, and `chargeId` for a \
         charge) or a QR check-in (`customerToken` and `merchantQrId`)";
}

/// ePayment: an event of a payment.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EpaymentEvent {
    /// The merchant's sales unit.
    pub(crate) msn: Id,
    /// The merchant's name of the payment.
    pub(crate) reference: String,
    /// The provider's name of the event.
    pub(crate) psp_reference: String,
    /// `CREATED`, `ABORTED`, `EXPIRED`, `CANCELLED`, `CAPTURED`, `REFUNDED`, `AUTHORIZED`,
    /// `TERMINATED`, …
    pub(crate) name: String,
    /// How much.
    pub(crate) amount: Option<Amount>,
    /// When it happened.
    pub(crate) timestamp: Option<String>,
    /// The key of the merchant's call that caused the event, if one did.
    pub(crate) idempotency_key: Option<String>,
    /// Whether the operation went through.
    pub(crate) success: Option<bool>,
    /// Until when a capture will succeed.
    pub(crate) capture_guaranteed_until: Option<String>,
    /// Express only: who paid.
    pub(crate) user_details: Option<Value>,
    /// Who the user is, where the merchant asked.
    pub(crate) profile: Option<Value>,
    /// Express only: where the goods go, and how.
    pub(crate) shipping_details: Option<Value>,
}

/// How much.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Amount {
    /// The ISO 4217 code.
    pub(crate) currency: String,
    /// In the minor unit of the currency.
    pub(crate) value: i64,
}

/// Recurring: an event of a charge.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChargeEvent {
    /// The agreement that the charge belongs to.
    pub(crate) agreement_id: String,
    /// The provider's name of the charge.
    pub(crate) charge_id: String,
    /// The merchant's name of the charge.
    pub(crate) charge_external_id: Option<String>,
    /// `recurring.charge-captured.v1`, …
    pub(crate) event_type: String,
    /// `INITIAL`, `RECURRING`, …
    pub(crate) charge_type: Option<String>,
    /// In the minor unit of the currency, as are those below.
    pub(crate) amount: Option<i64>,
    /// Captured so far.
    pub(crate) amount_captured: Option<i64>,
    /// Cancelled so far.
    pub(crate) amount_canceled: Option<i64>,
    /// Refunded so far.
    pub(crate) amount_refunded: Option<i64>,
    /// The ISO 4217 code.
    pub(crate) currency: Option<String>,
    /// When it happened.
    pub(crate) occurred: Option<String>,
}

/// Recurring: an event of an agreement.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AgreementEvent {
    /// The provider's name of the agreement.
    pub(crate) agreement_id: String,
    /// The merchant's name of the agreement.
    pub(crate) agreement_external_id: Option<String>,
    /// The provider's other name of the agreement.
    #[serde(rename = "agreementUUID")]
    pub(crate) agreement_uuid: Option<String>,
    /// `recurring.agreement-stopped.v1`, …
    pub(crate) event_type: String,
    /// `MERCHANT`, `USER`, `ADMIN`, …
    pub(crate) actor: Option<String>,
    /// When it happened.
    pub(crate) occurred: Option<String>,
}

/// QR: somebody scanned a code of the merchant.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CheckIn {
    /// Stands for the customer in a payment that follows.
    pub(crate) customer_token: String,
    /// Which code.
    pub(crate) merchant_qr_id: String,
    /// The merchant's sales unit.
    pub(crate) merchant_serial_number: Option<Id>,
    /// When it happened.
    pub(crate) initiated_at: Option<String>,
}

/// Checkout v3: a session came to its end, or a step nearer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Checkout {
    /// The provider's name of the session.
    pub(crate) session_id: String,
    /// The merchant's sales unit.
    pub(crate) merchant_serial_number: Option<Id>,
    /// The merchant's name of the payment.
    pub(crate) reference: String,
    /// `SessionCreated`, `PaymentInitiated`, `SessionExpired`, `PaymentSuccessful`,
    /// `PaymentTerminated`, …
    pub(crate) session_state: String,
    /// `Wallet`, `Card`, …
    pub(crate) payment_method: Option<String>,
    /// What was paid.
    pub(crate) payment_details: Option<PaymentDetails>,
    /// Who paid.
    pub(crate) user_info: Option<Value>,
    /// Where the goods go, and how.
    pub(crate) shipping_details: Option<Value>,
    /// Where the bill goes.
    pub(crate) billing_details: Option<Value>,
}

impl Callback for Checkout {
    const EXPECTED: &'static str =
        "a Checkout callback, with at least `sessionId`, `reference` and `sessionState`";
}

/// What was paid in a Checkout session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct PaymentDetails {
    /// `Wallet`, `Card`, …
    pub(crate) r#type: Option<String>,
    /// How much.
    pub(crate) amount: Option<Amount>,
    /// `AUTHORIZED`, …
    pub(crate) state: Option<String>,
}

/// A name made of digits, which one API sends as a number and the next as a string.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "Spelling")]
pub(crate) struct Id(String);

#[derive(Deserialize)]
#[serde(untagged)]
enum Spelling {
    Text(String),
    Number(u64),
}

impl From<Spelling> for Id {
    fn from(spelling: Spelling) -> Self {
        Self(match spelling {
            Spelling::Text(text) => text,
            Spelling::Number(number) => number.to_string(),
        })
    }
}
