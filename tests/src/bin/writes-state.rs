//! Writes a state file as often as possible until it is killed or its standard input is closed: `writes-state PATH`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
    thread,
    time::Duration,
};

use callback_source::{Answer, Question};
use integration_tests::merchant::{host_name, tiny_list};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        return ExitCode::from(2);
    };
    // A test that fails kills nothing, but its end closes the pipe.
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(1);
    });
    let list = tiny_list(&["h0.example"])
        .state_file(path)
        .spawn(async |question: Question| {
            let number = question.host.as_str().bytes().fold(0_u32, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(u32::from(byte))
            });
            let many = (0..200).map(|at| IpAddr::from(Ipv4Addr::from(number.wrapping_add(at))));
            Ok(Answer::new(many, Duration::from_secs(60)))
        });
    for number in 0.. {
        let mut changes = list.changes();
        list.replace_hosts([host_name(&format!("h{number}.example"))]);
        changes.next().await;
        tokio::task::yield_now().await;
    }
    ExitCode::SUCCESS
}
