//! The proxy variables of the environment. They are read when a process makes its client, so each case is a process
//! of its own: this test program again, which then runs only the ignored test.

use std::{
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
};

use minimcp_rest::{BaseUrl, Call, Client, ClientSpec, Trouble};

const VARIABLES: [&str; 8] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// The first line that comes in at a proxy that `variable` names, while a child asks `api.example.com`.
fn asked(variable: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let proxy = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        let mut line = String::new();
        BufReader::new(stream)
            .read_line(&mut line)
            .expect("readable");
        line
    });
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([
        "--exact",
        "asks_upstream_in_a_process_of_its_own",
        "--ignored",
    ]);
    for other in VARIABLES {
        command.env_remove(other);
    }
    let status = command.env(variable, format!("http://{address}")).status();
    assert!(status.expect("it starts").success());
    // Ends the wait of a proxy that nobody asked.
    drop(TcpStream::connect(address));
    proxy.join().expect("it does not panic")
}

#[test]
fn an_https_upstream_is_asked_through_the_proxy_of_the_environment() {
    for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let line = asked(variable);
        assert_eq!(
            line, "CONNECT api.example.com:443 HTTP/1.1\r\n",
            "{variable}"
        );
    }
    assert_eq!(asked("HTTP_PROXY"), "", "it is for http alone");
}

#[tokio::test]
#[ignore = "the test above runs it, with a proxy"]
async fn asks_upstream_in_a_process_of_its_own() {
    let mut spec = ClientSpec::new(
        "Test",
        BaseUrl::new("https://api.example.com").expect("https"),
    );
    spec.attempts = 1;
    let error = Client::new(spec)
        .send(Call::get("/"))
        .await
        .expect_err("the proxy hangs up");
    assert_eq!(error.failure.trouble, Trouble::Network);
}
