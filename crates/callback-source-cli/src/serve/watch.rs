//! Detection of changed content in a file.

/// Content of a file that is read regularly.
///
/// Changed content is passed on once two reads agree, since an editor may be saving the file during the first read. The
/// content is compared, not the modification time, since Kubernetes changes a file by pointing a symbolic link at
/// another folder.
#[derive(Debug)]
pub(super) struct Watch {
    /// Content that was passed on last, valid or not.
    taken: String,
    seen: Option<String>,
}

impl Watch {
    pub(super) fn new(content: String) -> Self {
        Self {
            taken: content,
            seen: None,
        }
    }

    /// Returns the content if it must be passed on.
    pub(super) fn look(&mut self, content: String) -> Option<String> {
        if content == self.taken {
            self.seen = None;
            return None;
        }
        if self.seen.as_ref() != Some(&content) {
            self.seen = Some(content);
            return None;
        }
        self.take(content.clone());
        Some(content)
    }

    /// Records content that is passed on for another reason, such as SIGHUP.
    pub(super) fn take(&mut self, content: String) {
        self.taken = content;
        self.seen = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_content_is_taken_once_when_two_looks_agree() {
        let mut watch = Watch::new("a".to_owned());
        let mut look = |content: &str| watch.look(content.to_owned());
        assert_eq!(look("a"), None);
        assert_eq!(look("b1"), None);
        assert_eq!(look("b12"), None);
        assert_eq!(look("b12"), Some("b12".to_owned()));
        assert_eq!(look("b12"), None);
        // An editor empties the file, and writes the same content again.
        assert_eq!(look(""), None);
        assert_eq!(look("b12"), None);
        assert_eq!(look(""), None);
        assert_eq!(look("a"), None);
        assert_eq!(look("a"), Some("a".to_owned()));
    }

    #[test]
    fn content_that_was_taken_at_a_signal_is_not_taken_again() {
        let mut watch = Watch::new("a".to_owned());
        assert_eq!(watch.look("b".to_owned()), None);
        watch.take("b".to_owned());
        assert_eq!(watch.look("b".to_owned()), None);
        assert_eq!(watch.look("b".to_owned()), None);
    }
}
