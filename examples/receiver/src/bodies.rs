//! The bodies of the callbacks.
//!
//! A field is required only if it identifies the type of the body, or if the body is useless without it. Unknown
//! fields, states and event names are accepted, since the provider adds new ones without notice.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Number, Value};

/// A body that one of the routes accepts.
pub(crate) trait Callback: DeserializeOwned {
    /// The type of the body and its required fields, for the error message.
    const EXPECTED: &'static str;
}

/// eCom v2: the outcome of a payment.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Payment {
    /// The merchant's sales unit.
    pub(crate) merchant_serial_number: Option<Id>,
    /// The merchant's id of the order.
    pub(crate) order_id: String,
    /// The change of the payment.
    pub(crate) transaction_info: TransactionInfo,
    /// The reason for a failure.
    pub(crate) error_info: Option<Value>,
    /// Express only: address and method of the shipment.
    pub(crate) shipping_details: Option<Shipment>,
    /// Express only: the customer.
    pub(crate) user_details: Option<UserDetails>,
}

impl Callback for Payment {
    const EXPECTED: &'static str = "an eCom payment callback, with at least `orderId` and \
         `transactionInfo`, and in that `status` and `transactionId`";
}

/// The change of an eCom payment.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TransactionInfo {
    /// The amount in the minor unit of the currency.
    pub(crate) amount: Option<i64>,
    /// The status: `RESERVED`, `RESERVE`, `SALE`, `RESERVE_FAILED`, `SALE_FAILED`, `CANCELLED`, `REJECTED`, …
    pub(crate) status: String,
    /// The time of the event.
    pub(crate) time_stamp: Option<String>,
    /// The provider's id of the transaction.
    pub(crate) transaction_id: Id,
}

/// Address and method of the shipment of an eCom Express order.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shipment {
    /// The shipping address.
    pub(crate) address: Option<ShipmentAddress>,
    /// The cost in the major unit of the currency.
    pub(crate) shipping_cost: Option<Number>,
    /// The method, as the customer saw it.
    pub(crate) shipping_method: Option<String>,
    /// The merchant's id of the method.
    pub(crate) shipping_method_id: Option<String>,
}

/// The shipping address of an eCom Express order.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShipmentAddress {
    /// Street and number.
    pub(crate) address_line1: Option<String>,
    /// The second line of the address.
    pub(crate) address_line2: Option<String>,
    /// The post town.
    pub(crate) city: Option<String>,
    /// The name or code of the country.
    pub(crate) country: Option<String>,
    /// The postal code.
    pub(crate) zip_code: Option<Id>,
}

/// The customer of an eCom Express order.
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
    /// The id that a later consent removal refers to.
    pub(crate) user_id: Option<String>,
}

/// eCom v2: an address whose shipping methods are requested.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShippingAddress {
    /// The id to repeat in the response.
    pub(crate) address_id: i64,
    /// Street and number.
    pub(crate) address_line1: Option<String>,
    /// The second line of the address.
    pub(crate) address_line2: Option<String>,
    /// The name or code of the country.
    pub(crate) country: String,
    /// The post town.
    pub(crate) city: Option<String>,
    /// The postal code.
    pub(crate) post_code: Option<Id>,
    /// The type of the address: `H` for home, …
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
    /// The `addressId` of the request.
    pub(crate) address_id: i64,
    /// The id of the order in the request.
    pub(crate) order_id: String,
    /// The methods to choose from.
    pub(crate) shipping_details: Vec<ShippingMethod>,
}

/// One way to ship the goods.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShippingMethod {
    /// `Y` for the preselected method, `N` for the others.
    pub(crate) is_default: &'static str,
    /// The position of the method among all methods.
    pub(crate) priority: u32,
    /// The cost in the major unit of the currency.
    pub(crate) shipping_cost: u32,
    /// The name that the customer sees.
    pub(crate) shipping_method: &'static str,
    /// The id that the payment callback repeats.
    pub(crate) shipping_method_id: &'static str,
}

impl ShippingMethods {
    /// Returns the two shipping methods of the example shop, which do not depend on the address.
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

/// A delivery of the Webhooks API. Its fields identify the variant.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Webhook {
    /// ePayment: an event of a payment.
    Epayment(Box<EpaymentEvent>),
    /// Recurring: an event of a charge. It has every required field of an agreement's event, so this variant is tried
    /// before `Agreement`.
    Charge(ChargeEvent),
    /// Recurring: an event of an agreement.
    Agreement(AgreementEvent),
    /// QR: a scan of a QR code of the merchant.
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
    /// The merchant's id of the payment.
    pub(crate) reference: String,
    /// The provider's id of the event.
    pub(crate) psp_reference: String,
    /// The name of the event: `CREATED`, `ABORTED`, `EXPIRED`, `CANCELLED`, `CAPTURED`, `REFUNDED`, `AUTHORIZED`,
    /// `TERMINATED`, …
    pub(crate) name: String,
    /// The amount.
    pub(crate) amount: Option<Amount>,
    /// The time of the event.
    pub(crate) timestamp: Option<String>,
    /// The idempotency key of the merchant's call that caused the event.
    pub(crate) idempotency_key: Option<String>,
    /// True if the operation succeeded.
    pub(crate) success: Option<bool>,
    /// The end of the period in which a capture is guaranteed to succeed.
    pub(crate) capture_guaranteed_until: Option<String>,
    /// Express only: the customer.
    pub(crate) user_details: Option<Value>,
    /// The user's profile, if the merchant requested it.
    pub(crate) profile: Option<Value>,
    /// Express only: address and method of the shipment.
    pub(crate) shipping_details: Option<Value>,
}

/// An amount of money.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Amount {
    /// The ISO 4217 code.
    pub(crate) currency: String,
    /// The number of minor units of the currency.
    pub(crate) value: i64,
}

/// Recurring: an event of a charge.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChargeEvent {
    /// The agreement that the charge belongs to.
    pub(crate) agreement_id: String,
    /// The provider's id of the charge.
    pub(crate) charge_id: String,
    /// The merchant's id of the charge.
    pub(crate) charge_external_id: Option<String>,
    /// The type of the event: `recurring.charge-captured.v1`, …
    pub(crate) event_type: String,
    /// The type of the charge: `INITIAL`, `RECURRING`, …
    pub(crate) charge_type: Option<String>,
    /// The amount. This amount and the next three are in the minor unit of the currency.
    pub(crate) amount: Option<i64>,
    /// The amount captured so far.
    pub(crate) amount_captured: Option<i64>,
    /// The amount cancelled so far.
    pub(crate) amount_canceled: Option<i64>,
    /// The amount refunded so far.
    pub(crate) amount_refunded: Option<i64>,
    /// The ISO 4217 code.
    pub(crate) currency: Option<String>,
    /// The time of the event.
    pub(crate) occurred: Option<String>,
}

/// Recurring: an event of an agreement.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AgreementEvent {
    /// The provider's id of the agreement.
    pub(crate) agreement_id: String,
    /// The merchant's id of the agreement.
    pub(crate) agreement_external_id: Option<String>,
    /// Another id of the provider for the agreement.
    #[serde(rename = "agreementUUID")]
    pub(crate) agreement_uuid: Option<String>,
    /// The type of the event: `recurring.agreement-stopped.v1`, …
    pub(crate) event_type: String,
    /// The originator of the event: `MERCHANT`, `USER`, `ADMIN`, …
    pub(crate) actor: Option<String>,
    /// The time of the event.
    pub(crate) occurred: Option<String>,
}

/// QR: the scan of a merchant's QR code by a customer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CheckIn {
    /// The token that identifies the customer in a later payment.
    pub(crate) customer_token: String,
    /// The id of the QR code.
    pub(crate) merchant_qr_id: String,
    /// The merchant's sales unit.
    pub(crate) merchant_serial_number: Option<Id>,
    /// The time of the event.
    pub(crate) initiated_at: Option<String>,
}

/// Checkout v3: a change of a session.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Checkout {
    /// The provider's id of the session.
    pub(crate) session_id: String,
    /// The merchant's sales unit.
    pub(crate) merchant_serial_number: Option<Id>,
    /// The merchant's id of the payment.
    pub(crate) reference: String,
    /// The state of the session: `SessionCreated`, `PaymentInitiated`, `SessionExpired`, `PaymentSuccessful`,
    /// `PaymentTerminated`, …
    pub(crate) session_state: String,
    /// The payment method: `Wallet`, `Card`, …
    pub(crate) payment_method: Option<String>,
    /// The payment.
    pub(crate) payment_details: Option<PaymentDetails>,
    /// The customer.
    pub(crate) user_info: Option<Value>,
    /// Address and method of the shipment.
    pub(crate) shipping_details: Option<Value>,
    /// The billing address.
    pub(crate) billing_details: Option<Value>,
}

impl Callback for Checkout {
    const EXPECTED: &'static str =
        "a Checkout callback, with at least `sessionId`, `reference` and `sessionState`";
}

/// The payment of a Checkout session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct PaymentDetails {
    /// The type of the payment: `Wallet`, `Card`, …
    pub(crate) r#type: Option<String>,
    /// The amount.
    pub(crate) amount: Option<Amount>,
    /// The state of the payment: `AUTHORIZED`, …
    pub(crate) state: Option<String>,
}

/// An id of digits, which some APIs send as a number and other APIs as a string.
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
