//! Icons of templates: served as pictures and nothing else; what is no plain picture is a fault of its template.

use std::{fs, path::Path};

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Database, Server};

/// A PNG of 2 by 3 pixels, as far as anyone looks at it.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x02\0\0\0\x03\x08\x06\0\0\0";

fn template(folder: &Path, name: &str, icon: &str, file: Option<&[u8]>) {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).expect("the folder is ours");
    let text = format!(
        "schema = 1\nname = \"{name}\"\ntitle = \"X\"\ndescription = \"A server.\"\nicon = \"{icon}\"\n\
         [server]\ntransport = \"stdio\"\ncommand = [\"sh\"]\n"
    );
    fs::write(folder.join("template.toml"), text).expect("the folder is ours");
    if let Some(file) = file {
        fs::write(folder.join(icon), file).expect("the folder is ours");
    }
}

#[tokio::test]
async fn icons_are_served_as_pictures_and_bad_ones_are_faults() {
    let server = Server::start_with(Database::Sqlite, |config| {
        let folder = &config.runtime.template_dirs[0];
        template(folder, "with-png", "icon.png", Some(PNG));
        template(
            folder,
            "with-script",
            "icon.svg",
            Some(b"<svg><script>x()</script></svg>"),
        );
        template(folder, "with-none", "icon.svg", None);
        template(folder, "too-large", "icon.png", Some(&[0; 70_000]));
        template(folder, "elsewhere", "../icon.svg", None);
        template(folder, "linked", "icon.svg", None);
        std::os::unix::fs::symlink("/etc/passwd", folder.join("linked/icon.svg")).expect("ours");
    })
    .await;
    let log = server.log();
    for (name, part) in [
        (
            "with-script",
            "must be a plain picture, and it holds <script",
        ),
        ("with-none", "cannot be read"),
        ("too-large", "at most 65536 bytes"),
        ("elsewhere", "the name of an .svg or .png file"),
        ("linked", "is no regular file"),
    ] {
        let place = format!("{name}/template.toml: icon: ");
        let line = log.lines().find(|line| line.contains(&place));
        assert!(
            line.is_some_and(|line| line.contains(part)),
            "{name}: {log}"
        );
        let (status, _) = server
            .call(Method::GET, &format!("/templates/{name}"), None)
            .await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{name}");
    }

    for (name, media_type, sizes) in [
        ("demo", "image/svg+xml", "any"),
        ("with-png", "image/png", "2x3"),
    ] {
        let shown = server.get(&format!("/templates/{name}")).await;
        let src = format!("/api/v1/templates/{name}/icon");
        let icon = json!([{"src": src, "mimeType": media_type, "sizes": [sizes]}]);
        assert_eq!(shown["icons"], icon, "{shown:#}");
        let answer = server.send(Method::GET, &src, None).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let header = |name: &str| {
            answer.headers()[name]
                .to_str()
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(header("content-type"), media_type);
        assert_eq!(header("x-content-type-options"), "nosniff");
        let policy = header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.ends_with("sandbox"),
            "{policy}"
        );
        let body = answer.bytes().await.expect("a body");
        assert!(body.starts_with(b"<svg") || *body == *PNG);
        let bare = reqwest::get(format!("{}{src}", server.url())).await;
        assert_eq!(bare.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    }
    let without = server.get("/templates/http-echo").await;
    assert_eq!(
        without["icons"],
        serde_json::Value::Null,
        "absent where there is none"
    );
    let (status, problem) = server
        .call(Method::GET, "/templates/http-echo/icon", None)
        .await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::NOT_FOUND, &json!("not-found"))
    );
}
