//! `Debug` for errors that a service may return from `main`, since `main` prints errors with `Debug`.

use std::{error::Error, fmt};

/// Implements `Debug` for an error so that the output is the message and its causes, without the fields.
macro_rules! debug_by_message {
    ($error:ty) => {
        impl std::fmt::Debug for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                $crate::debug::write_message(self, f)
            }
        }
    };
}
pub(crate) use debug_by_message;

pub(crate) fn write_message(error: &dyn Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{error}")?;
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(f, ": {error}")?;
        cause = error.source();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use crate::{AllowList, HostName, vipps::Environment};

    /// Returns the text that `main` prints if it returns this error.
    fn printed(error: impl Into<Box<dyn Error>>) -> String {
        format!("Error: {:?}", error.into())
    }

    #[test]
    fn an_error_that_main_returns_is_printed_as_its_message() {
        let host = "a b".parse::<HostName>().unwrap_err();
        assert_eq!(printed(host.clone()), format!("Error: {host}"));
        let environment = "live".parse::<Environment>().unwrap_err();
        assert_eq!(
            printed(environment.clone()),
            format!("Error: {environment}")
        );
        let network = AllowList::builder()
            .net("0.0.0.0/0".parse().unwrap())
            .unwrap_err();
        assert_eq!(printed(network), format!("Error: {network}"));
    }

    #[cfg(feature = "signature")]
    #[test]
    fn an_empty_secret_is_named_where_main_returns_the_error() {
        let error = crate::signature::Secret::new("").unwrap_err();
        assert_eq!(printed(error), "Error: the secret or token is empty");
    }

    #[test]
    fn the_cause_of_an_error_is_printed_after_its_message() {
        #[derive(thiserror::Error)]
        #[error("cannot start")]
        struct Outer(#[source] std::io::Error);
        super::debug_by_message!(Outer);

        let error = Outer(std::io::Error::other("the disk is full"));
        assert_eq!(printed(error), "Error: cannot start: the disk is full");
    }
}
