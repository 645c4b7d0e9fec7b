//! The Gmail tools against a fake of the Gmail API that judges every request by Google's own description, and of
//! Google's token endpoint.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use minimcp_gmail::{Credentials, Gmail, Settings};
use minimcp_rest::{BaseUrl, Secret};

#[path = "../../../rest/tests/support/contract.rs"]
mod contract;
#[expect(dead_code, reason = "what only other tests look at")]
#[path = "../../../rest/tests/support/fake.rs"]
mod fake;
mod faults;
#[path = "../support/google.rs"]
mod google;
mod labelling;
#[path = "../support/mailbox.rs"]
mod mailbox;
mod reading;
#[path = "../../../rest/tests/support/session.rs"]
mod session;
mod sign_in;
#[path = "../support/token_endpoint.rs"]
mod token_endpoint;
#[path = "../../../rest/tests/support/upstream.rs"]
mod upstream;
mod writing;

use fake::Fake;
use google::Google;
use session::Session;
use token_endpoint::{SharedSignIn, SignIn};
use upstream::Upstream;

const MODIFY: &str = "https://www.googleapis.com/auth/gmail.modify";
const SETTINGS: &str = "https://www.googleapis.com/auth/gmail.settings.basic";

/// Every tool, by name.
const TOOLS: [&str; 28] = [
    "batch_modify_emails",
    "create_filter",
    "create_label",
    "delete_draft",
    "delete_filter",
    "delete_label",
    "download_attachment",
    "draft_email",
    "forward_email",
    "get_profile",
    "get_thread",
    "list_drafts",
    "list_email_labels",
    "list_filters",
    "modify_email",
    "modify_thread",
    "read_email",
    "reply_to_email",
    "search_emails",
    "search_threads",
    "send_draft",
    "send_email",
    "trash_email",
    "trash_thread",
    "untrash_email",
    "untrash_thread",
    "update_draft",
    "update_label",
];

struct Setup {
    api: Upstream<Google>,
    sign_in: Fake,
    shared: SharedSignIn,
    session: Session,
}

async fn setup_with(refresh_token: &str) -> Setup {
    let shared: SharedSignIn = Arc::new(Mutex::new(SignIn {
        tokens: 0,
        scope: format!("{MODIFY} {SETTINGS}"),
        tells_scope: true,
    }));
    let api = Upstream::start(Google::new(shared.clone()), google::FIXTURE).await;
    let sign_in = Fake::start(token_endpoint::sign_in(shared.clone()), None).await;
    let address = |url: &str| BaseUrl::new(url).map_err(|error| error.to_string());
    let settings = Settings {
        credentials: Ok(Credentials {
            client_id: "client-1".to_owned(),
            client_secret: Secret::new("client-SECRET"),
            refresh_token: Secret::new(refresh_token),
        }),
        api: address(&api.url),
        token_uri: address(&format!("{}/token", sign_in.url)),
    };
    let session = Session::start(Gmail::new(settings)).await;
    Setup {
        api,
        sign_in,
        shared,
        session,
    }
}

async fn setup() -> Setup {
    setup_with("1//refresh-SECRET").await
}

impl Setup {
    /// Puts a mail into the inbox; the answer is (message id, thread id).
    fn receive(&self, raw: &str) -> (String, String) {
        let raw = raw.replace('\n', "\r\n");
        self.api.with(|google| {
            let mail = google
                .mailbox
                .store(raw.as_bytes(), None, &["INBOX", "UNREAD"]);
            let mail = mail.expect("a good mail");
            (mail.id, mail.thread)
        })
    }
}

#[tokio::test]
async fn every_tool_is_described() {
    let Setup { mut session, .. } = setup().await;
    let tools = session.tools().await;
    let names: BTreeSet<&str> = tools.keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(TOOLS));
    for (name, tool) in &tools {
        for schema in ["inputSchema", "outputSchema"] {
            jsonschema::validator_for(&tool[schema])
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(tool[schema]["type"], "object", "{name}");
        }
        let reads = ["get_", "list_", "read_", "search_", "download_"]
            .iter()
            .any(|start| name.starts_with(start));
        assert_eq!(tool["annotations"]["readOnlyHint"], reads, "{name}");
        let sends = [
            "send_email",
            "send_draft",
            "reply_to_email",
            "forward_email",
        ]
        .contains(&name.as_str());
        if sends {
            assert_eq!(tool["annotations"]["destructiveHint"], true, "{name}");
            assert_eq!(tool["annotations"]["idempotentHint"], false, "{name}");
        }
    }
}
