//! Secrets and tokens, which are wiped from memory and never printed.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, LazyLock},
};

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderValue;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use zeroize::{Zeroize, Zeroizing};

use crate::{MessageRejection, MessageRejectionKind};

/// The secret of a webhook registration.
///
/// A `Secret` contains the keyed HMAC, not the text. It is never printed, and is wiped when it is dropped. A `String`
/// that was passed in is wiped, too. Copies elsewhere in the program, and copies that the compiler left on the stack,
/// cannot be wiped.
///
/// ```
/// use callback_source::signature::{Secret, SecretError};
///
/// let from_file = "A0+AeKBRG2KRGvnNwJpQlb6IJFk48CKXCIcrLoHncVJKDILsQSxS6NWCccwWm6r6Fh==\n";
/// assert_eq!(Secret::new(from_file).unwrap_err(), SecretError::NotBare);
/// let secret = Secret::new(from_file.trim())?;
/// assert_eq!(format!("{secret:?}"), "Secret(…)");
/// # Ok::<_, SecretError>(())
/// ```
#[derive(Clone)]
pub struct Secret(Box<Hmac<Sha256>>);

impl Secret {
    /// Creates a secret from the text that the provider shows. The key consists of the UTF-8 bytes of that text. The
    /// text looks like base64, but is neither decoded nor trimmed.
    ///
    /// # Errors
    ///
    /// Returns an error for a secret that is empty or blank, with which anyone could sign. Also returns an error for a
    /// secret that begins or ends with white space or another invisible character, or contains a control character such
    /// as a line break. The provider does not issue such secrets, and no signature would match.
    pub fn new(secret: impl Into<String>) -> Result<Self, SecretError> {
        let secret = Zeroizing::new(secret.into());
        if secret.chars().all(is_blank) {
            return Err(SecretError::Empty);
        }
        if !is_bare(&secret) || secret.chars().any(char::is_control) {
            return Err(SecretError::NotBare);
        }
        Ok(Self::keyed(secret.as_bytes()))
    }

    /// Returns a secret that stands in for the missing secret of an unknown registration, so that a rejection takes as
    /// long as for a known registration.
    pub(super) fn dummy() -> &'static Self {
        static DUMMY: LazyLock<Secret> =
            LazyLock::new(|| Secret::keyed(b"no secret signs with this"));
        &DUMMY
    }

    fn keyed(key: &[u8]) -> Self {
        let hmac = Hmac::new_from_slice(key).expect("HMAC takes keys of any length");
        Self(Box::new(hmac))
    }

    /// Returns the HMAC-SHA256 of a message that consists of these parts.
    pub(super) fn mac(&self, message: &[&[u8]]) -> [u8; 32] {
        let mut mac = (*self.0).clone();
        for part in message {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The merchant's own `Authorization` value, which the merchant passes to the provider with an order.
///
/// A `Token` contains the SHA-256 of the value, so that a comparison takes the same time for any length. It is never
/// printed, and is wiped when it is dropped. A `String` that was passed in is wiped, too.
///
/// ```
/// use callback_source::signature::{SecretError, Token};
///
/// let token = Token::new("Bearer s3cret")?;
/// assert_eq!(format!("{token:?}"), "Token(…)");
/// assert_eq!(Token::new("").unwrap_err(), SecretError::Empty);
/// # Ok::<_, SecretError>(())
/// ```
#[derive(Clone)]
pub struct Token(Box<Zeroizing<[u8; 32]>>);

impl Token {
    /// Creates a token from the whole value of the `Authorization` header, which is compared verbatim. Include `Bearer
    /// …` if that is part of the value that the provider received.
    ///
    /// # Errors
    ///
    /// Returns an error for a value that is empty or not valid in an `Authorization` header, such as a value with
    /// control characters. Also returns an error for a value that begins or ends with white space or another invisible
    /// character.
    pub fn new(value: impl Into<String>) -> Result<Self, SecretError> {
        let value = Zeroizing::new(value.into());
        if value.chars().all(is_blank) {
            return Err(SecretError::Empty);
        }
        if !is_bare(&value) || HeaderValue::from_str(&value).is_err() {
            return Err(SecretError::NotAHeader);
        }
        Ok(Self::hashed(value.as_bytes()))
    }

    fn hashed(value: &[u8]) -> Self {
        Self(Box::new(Zeroizing::new(Sha256::digest(value).into())))
    }

    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.as_slice().ct_eq(other.0.as_slice())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Error for a text that cannot be a [`Secret`] or a [`Token`]. Its message never contains the text.
///
/// ```
/// use callback_source::signature::{SecretError, Token};
///
/// let error = Token::new("s3cret\n").unwrap_err();
/// assert_eq!(error, SecretError::NotAHeader);
/// assert!(!error.to_string().contains("s3cret"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The text is empty or blank.
    #[error("the secret or token is empty")]
    Empty,
    /// The text begins or ends with white space or another invisible character, or contains a control character.
    #[error(
        "the secret has surrounding white space or a control character, such as the line break at \
         the end of a file; pass only the secret, `text.trim()` for a file"
    )]
    NotBare,
    /// The text is not a valid header value, or begins or ends with white space or another invisible character.
    #[error(
        "the token is not a valid header value; remove control characters and surrounding white space"
    )]
    NotAHeader,
}

crate::debug::debug_by_message!(SecretError);

/// Returns `true` for a text without invisible characters around it.
fn is_bare(text: &str) -> bool {
    !text.starts_with(is_blank) && !text.ends_with(is_blank)
}

/// Returns `true` for white space, and for other invisible characters that can surround a text in a file: NUL, a byte
/// order mark, and zero-width characters.
fn is_blank(character: char) -> bool {
    character.is_whitespace()
        || matches!(
            character,
            '\0' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}'
        )
}

/// The secrets, or tokens, with which a request may be verified. All secrets are tried.
///
/// With an empty list, no request is verified. Cloning only increments a reference count.
///
/// ```
/// use callback_source::signature::{Secret, Secrets};
///
/// // While a secret is replaced, both are accepted.
/// let secrets = Secrets::from_iter([Secret::new("the old one")?, Secret::new("the new one")?]);
/// assert_eq!(secrets.len(), 2);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Secrets<T = Secret>(Arc<[T]>);

impl<T> Clone for Secrets<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Secrets<T> {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl<T> From<T> for Secrets<T> {
    fn from(secret: T) -> Self {
        Self(Arc::new([secret]))
    }
}

impl<T> FromIterator<T> for Secrets<T> {
    fn from_iter<I: IntoIterator<Item = T>>(secrets: I) -> Self {
        Self(secrets.into_iter().collect())
    }
}

impl<T> Deref for Secrets<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl Secrets<Token> {
    /// Checks the value of an `Authorization` header, for services without
    /// [`VerifyTokenLayer`](super::VerifyTokenLayer).
    ///
    /// Every token is compared, and no comparison ends early. Digests are compared, so that the duration reveals
    /// nothing about a token's length.
    ///
    /// ```
    /// use callback_source::signature::{Secrets, Token};
    ///
    /// let tokens = Secrets::from_iter([Token::new("s3cret-2025")?, Token::new("s3cret-2026")?]);
    /// assert!(tokens.check(b"s3cret-2026").is_ok());
    /// assert!(tokens.check(b"s3cret-2024").is_err());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`Token`](MessageRejectionKind::Token) for a value that equals none of the tokens, or
    /// [`UnknownKey`](MessageRejectionKind::UnknownKey) if there are no tokens.
    pub fn check(&self, value: &[u8]) -> Result<(), MessageRejection> {
        let token = Token::hashed(value);
        if self.is_empty() {
            let _ = std::hint::black_box(token.ct_eq(&Token::hashed(b"")));
            return Err(MessageRejection::new(MessageRejectionKind::UnknownKey));
        }
        let mut equal = Choice::from(0);
        for expected in self.iter() {
            equal |= token.ct_eq(expected);
        }
        if bool::from(equal) {
            Ok(())
        } else {
            Err(MessageRejection::new(MessageRejectionKind::Token))
        }
    }
}

/// Compares two digests, and wipes the first, which was computed with a secret.
pub(super) fn equal_and_wiped(mut computed: [u8; 32], claimed: &[u8; 32]) -> Choice {
    let equal = computed.ct_eq(claimed);
    computed.zeroize();
    equal
}

#[cfg(test)]
mod tests {
    use zeroize::ZeroizeOnDrop;

    use super::*;

    #[test]
    fn no_part_of_a_secret_or_token_is_printed() {
        let secret = Secret::new("hunter2-secret").unwrap();
        let token = Token::new("Bearer hunter2-token").unwrap();
        let secrets = Secrets::from(secret.clone());
        let printed = format!("{secret:?} {token:?} {secrets:?} {secret:#?}");
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(!printed.bytes().any(|byte| byte.is_ascii_digit()));
    }

    #[test]
    fn an_empty_or_blank_secret_or_token_is_refused() {
        for text in [
            "",
            " ",
            "\t\r\n",
            "\u{feff}",
            "\u{feff}\r\n",
            "\u{a0}\u{3000}",
        ] {
            assert_eq!(Secret::new(text).unwrap_err(), SecretError::Empty);
            assert_eq!(Token::new(text).unwrap_err(), SecretError::Empty);
        }
    }

    #[test]
    fn a_token_that_is_not_a_valid_header_value_is_refused() {
        for text in [
            "a\n",
            " a",
            "a ",
            "a\nb",
            "a\0",
            "a\u{7f}",
            "\u{feff}a",
            "a\u{a0}",
        ] {
            assert_eq!(Token::new(text).unwrap_err(), SecretError::NotAHeader);
        }
        assert!(Token::new("Bearer æøå").is_ok());
    }

    #[test]
    fn a_secret_with_surrounding_white_space_is_refused_and_the_error_names_the_fix() {
        const SECRET: &str = "A0+AeKBRG2KRGvnNwJpQlb6IJFk48CKXCIcrLoHncVJKDILsQSxS6NWCccwWm6r6Fh==";
        for around in [
            "\n", "\r\n", " ", "\t", "\u{a0}", "\u{2028}", "\u{feff}", "\u{200b}",
        ] {
            for text in [
                format!("{SECRET}{around}"),
                format!("{around}{SECRET}"),
                format!("{around}{SECRET}{around}"),
            ] {
                assert_eq!(Secret::new(text.clone()).unwrap_err(), SecretError::NotBare);
                let bare = text.trim_matches(is_blank);
                assert!(Secret::new(bare).is_ok(), "{around:?}");
            }
        }
        // Base64 in several lines, as `base64` prints it.
        for between in ["\n", "\r\n", "\0"] {
            let text = format!("{}{between}{}", &SECRET[..40], &SECRET[40..]);
            assert_eq!(Secret::new(text).unwrap_err(), SecretError::NotBare);
        }
        assert!(Secret::new("of the registration, æøå").is_ok());
        let message = SecretError::NotBare.to_string();
        assert!(
            message.contains("line break") && message.contains("trim()"),
            "{message}"
        );
    }

    #[test]
    fn the_stored_key_material_is_wiped_on_drop() {
        fn is_wiped<T: ZeroizeOnDrop>() {}
        is_wiped::<sha2::block_api::Sha256VarCore>();
        is_wiped::<Zeroizing<[u8; 32]>>();
    }
}
