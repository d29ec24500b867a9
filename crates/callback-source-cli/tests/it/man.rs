//! Man pages.

use std::fs;

use integration_tests::servers::find;
use tokio::process::Command;

use crate::setup::{command, shown};

#[tokio::test]
async fn there_is_a_man_page_of_each_subcommand_without_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let mut man = command(["man", folder.path().to_str().unwrap()]);
    man.env("SOURCE_DATE_EPOCH", "1790000000");
    assert_eq!(
        shown(&man.output().await.unwrap()),
        "exit 0\n-- stdout\n-- stderr\n"
    );
    let files = fs::read_dir(folder.path()).unwrap();
    let mut pages: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    pages.sort();
    let names = pages.iter().map(|page| page.file_name().unwrap());
    let names: Vec<_> = names.map(|name| name.to_str().unwrap()).collect();
    for page in ["", "-check", "-lookup", "-serve", "-sign", "-verify"] {
        assert!(
            names.contains(&&*format!("callback-source{page}.1")),
            "{names:?}"
        );
    }
    assert!(!names.contains(&"callback-source-man.1"), "{names:?}");
    let serve = fs::read_to_string(folder.path().join("callback-source-serve.1")).unwrap();
    assert!(serve.contains("2026-09-21"), "{serve}");
    assert!(serve.contains("CALLBACK_SOURCE_LISTEN"), "{serve}");

    let Some([mandoc]) = find(["mandoc"]) else {
        return;
    };
    let mut lint = Command::new(mandoc);
    lint.args(["-T", "lint", "-W", "warning"]).args(pages);
    let output = shown(&lint.output().await.unwrap());
    assert_eq!(output, "exit 0\n-- stdout\n-- stderr\n");
}

#[tokio::test]
async fn a_folder_that_does_not_exist_is_an_error() {
    let output = shown(&command(["man", "/nonexistent"]).output().await.unwrap());
    assert!(
        output.contains("cannot write `/nonexistent/callback-source.1`: No such file"),
        "{output}"
    );
}
