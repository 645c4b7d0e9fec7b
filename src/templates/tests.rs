use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

pub(super) const GOOD: &str = r#"
schema = 1
name = "x"
title = "X"
description = "A server."
[server]
transport = "stdio"
command = ["prog", "--data={data}"]
install = "apt install prog"
[[credential]]
name = "TOKEN"
title = "Token"
[[setting]]
name = "folders"
title = "Folders"
type = "string-list"
arguments = ["--folder", "{value}"]
[[setting]]
name = "mode"
title = "Mode"
type = "string"
default = "fast"
enum = ["fast", "safe"]
env = "MODE"
[[setting]]
name = "level"
title = "Level"
type = "integer"
required = true
arguments = ["--level={value}"]
[[setting]]
name = "quiet"
title = "Quiet"
type = "boolean"
arguments = ["-q"]
"#;

fn good() -> Template {
    read(GOOD, "x", Path::new("template.toml")).expect("a good manifest")
}

fn catalogue(dirs: Vec<PathBuf>, search_path: Vec<PathBuf>) -> Catalogue {
    let config = RuntimeConfig {
        template_dirs: dirs,
        search_path,
        ..RuntimeConfig::default()
    };
    Catalogue::load(&config, "/opt/minimcp".into())
}

fn name(text: &str) -> TemplateName {
    TemplateName::new(text).expect("a valid name")
}

fn map(value: &Value) -> BTreeMap<String, Value> {
    let object = value.as_object().expect("an object");
    object
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn spec(settings: &Value) -> InstanceSpec {
    InstanceSpec {
        settings: map(settings),
        ..InstanceSpec::default()
    }
}

#[test]
fn every_embedded_manifest_is_sound() {
    let catalogue = catalogue(Vec::new(), Vec::new());
    assert_eq!(catalogue.faults(), Vec::new());
    assert_eq!(catalogue.list().len(), SHIPPED.len());
}

#[test]
fn a_request_is_told_every_fault() {
    let template = good();
    let settings = json!({"folders": ["/a", 5, ""], "mode": "slow", "quiet": "yes", "depth": 1});
    let credentials = BTreeMap::from([("OTHER".to_owned(), "has space".to_owned())]);
    let found: BTreeSet<(String, String)> = check(&template, &map(&settings), &credentials)
        .into_iter()
        .map(|violation| (violation.pointer, violation.code))
        .collect();
    let expected = [
        ("/settings/folders/1", "type"),
        ("/settings/folders/2", "required"),
        ("/settings/mode", "enum"),
        ("/settings/quiet", "type"),
        ("/settings/depth", "unknown"),
        ("/settings/level", "required"),
        ("/credentials/OTHER", "unknown"),
        ("/credentials/OTHER", "pattern"),
        ("/credentials/TOKEN", "required"),
    ];
    assert_eq!(
        found,
        expected
            .map(|(at, code)| (at.to_owned(), code.to_owned()))
            .into()
    );
}

#[test]
fn values_are_bounded_and_never_options() {
    let template = good();
    let credentials = BTreeMap::from([("TOKEN".to_owned(), "my-token".to_owned())]);
    let codes = |settings: Value| -> Vec<String> {
        let violations = check(&template, &map(&settings), &credentials);
        violations
            .into_iter()
            .map(|violation| violation.code)
            .collect()
    };
    assert_eq!(
        codes(json!({"level": -3, "folders": ["/a b;$(c)"]})),
        Vec::<String>::new()
    );
    for (folders, code) in [
        (json!(["--help"]), "pattern"),
        (json!(["x".repeat(4_097)]), "too-long"),
        (json!(["a\nb"]), "control-character"),
        (json!([""]), "required"),
        (json!(vec!["a"; 65]), "too-long"),
    ] {
        assert_eq!(codes(json!({"level": 1, "folders": folders})), [code]);
    }
    assert_eq!(codes(json!({"level": 1.5})), ["type"]);
}

#[test]
fn a_launch_command_is_made_of_single_arguments() {
    let settings = json!({"folders": ["/a b", "{data}"], "level": -3, "quiet": true});
    let resolved = resolve(
        &good(),
        Path::new("/bin/prog"),
        &spec(&settings),
        Path::new("/var/i1"),
        None,
    );
    let resolved = resolved.expect("a command");
    assert_eq!(
        resolved.argv,
        [
            "/bin/prog",
            "--data=/var/i1",
            "--folder",
            "/a b",
            "--folder",
            "{data}",
            "--level=-3",
            "-q"
        ]
    );
    assert_eq!(resolved.env["MODE"], "fast");
    assert_eq!(resolved.env["HOME"], "/var/i1");
    assert!(!resolved.env.contains_key("TOKEN"));
    assert_eq!(resolved.cwd, Path::new("/var/i1"));
}

#[test]
fn what_runs_on_node_keeps_its_compiled_code_in_its_own_folder() {
    let variable = |server: &str| {
        let text = format!(
            "schema = 1\nname = \"x\"\ntitle = \"X\"\ndescription = \"d\"\n[server]\ntransport = \"stdio\"\n{server}\n"
        );
        let template = read(&text, "x", Path::new("t")).expect("good");
        let spec = spec(&json!({}));
        let resolved = resolve(&template, Path::new("/p"), &spec, Path::new("/d/i"), None);
        let env = resolved.expect("a command").env;
        env.get("NODE_COMPILE_CACHE").cloned()
    };
    let own = Some("/d/i/.cache/node-compile-cache".to_owned());
    assert_eq!(variable("command = [\"node\", \"/x.js\"]"), own);
    let of = |package: &str| format!("command = [\"p\"]\npackage = \"{package}\"");
    assert_eq!(variable(&of("npm:@a/b@1.2.3")), own);
    assert_eq!(variable(&of("pypi:b==1.2.3")), None);
    assert_eq!(variable("command = [\"p\", \"node\"]"), None);
    let off = "command = [\"node\", \"/x.js\"]\n[environment]\nNODE_COMPILE_CACHE = \"\"";
    assert_eq!(
        variable(off),
        Some(String::new()),
        "a template has the last word"
    );
}

#[test]
fn a_setting_can_be_a_file_whose_path_stands_in_arguments() {
    let text = "schema = 1\nname = \"x\"\ntitle = \"X\"\ndescription = \"d\"\n[server]\ntransport = \"stdio\"\n\
        command = [\"p\"]\n[[setting]]\nname = \"config\"\ntitle = \"C\"\ntype = \"string\"\n\
        delivery = \"file\"\nenv = \"CONFIG\"\narguments = [\"--in\", \"{data}/x:{value},{value}\"]\n";
    let template = read(text, "x", Path::new("t")).expect("good");
    let content = "-a\n{data}\t{value}";
    let spec = spec(&json!({"config": content}));
    let resolved = resolve(&template, Path::new("/p"), &spec, Path::new("/d"), None);
    let resolved = resolved.expect("a command");
    assert_eq!(resolved.argv, ["/p", "--in", "/d/x:,"]);
    assert!(!resolved.env.contains_key("CONFIG"));
    assert_eq!(resolved.files["CONFIG"], content);
    let places: Vec<_> = resolved
        .file_arguments
        .iter()
        .map(|place| (place.index, place.at, place.file.as_str()))
        .collect();
    assert_eq!(places, [(2, 5, "CONFIG"), (2, 6, "CONFIG")]);
    for (text, code) in [
        ("x".repeat(SETTING_FILE_BYTES_MAX + 1), "too-long"),
        ("a\0b".to_owned(), "control-character"),
    ] {
        let fault = parameters::check_value(&template.settings[0], &json!(text));
        assert_eq!(fault.expect_err("refused").code, code);
    }
}

#[test]
fn a_stored_setting_that_no_longer_fits_is_refused() {
    for settings in [
        json!({}),
        json!({"level": "x"}),
        json!({"level": 1, "gone": 1}),
        json!({"level": 1, "folders": ["-x"]}),
    ] {
        let resolved = resolve(
            &good(),
            Path::new("/p"),
            &spec(&settings),
            Path::new("/d"),
            None,
        );
        assert!(
            matches!(resolved, Err(ResolveError::Setting { .. })),
            "{settings}"
        );
    }
}

#[test]
fn an_http_server_is_told_its_port() {
    let text = "schema = 1\nname = \"x\"\ntitle = \"X\"\ndescription = \"d\"\n[server]\ntransport = \"http\"\n\
                command = [\"p\", \"--port={port}\"]\nport_env = \"PORT\"\n";
    let template = read(text, "x", Path::new("t")).expect("good");
    let launch = |port| {
        resolve(
            &template,
            Path::new("/p"),
            &spec(&json!({})),
            Path::new("/d"),
            port,
        )
    };
    assert_eq!(launch(None), Err(ResolveError::PortMissing("x".to_owned())));
    let resolved = launch(Some(9_000)).expect("a command");
    assert_eq!(
        (resolved.argv[1].as_str(), resolved.env["PORT"].as_str()),
        ("--port=9000", "9000")
    );
}

#[test]
fn the_schema_tells_what_a_frontend_needs() {
    let schema = settings_schema(&good());
    assert_eq!(schema["required"], json!(["level"]));
    assert_eq!(schema["additionalProperties"], json!(false));
    assert_eq!(
        schema["properties"]["mode"]["enum"],
        json!(["fast", "safe"])
    );
    assert_eq!(schema["properties"]["mode"]["default"], json!("fast"));
    assert_eq!(
        schema["properties"]["folders"]["items"]["type"],
        json!("string")
    );
}

fn write_template(dir: &Path, folder: &str, text: &str) {
    fs::create_dir_all(dir.join(folder)).expect("a folder");
    fs::write(dir.join(folder).join("template.toml"), text).expect("a file");
}

#[test]
fn a_faulty_folder_is_left_out_and_later_folders_win() {
    let dir = tempfile::tempdir().expect("a folder");
    let (first, second) = (dir.path().join("1"), dir.path().join("2"));
    write_template(&first, "x", &GOOD.replace("A server.", "first"));
    write_template(&first, "bad", "schema = 9");
    write_template(&second, "x", &GOOD.replace("A server.", "second"));
    fs::create_dir_all(first.join("not-a-template")).expect("a folder");
    let catalogue = catalogue(
        vec![first, second.clone(), dir.path().join("missing")],
        Vec::new(),
    );
    let entry = catalogue.get(&name("x")).expect("loaded");
    assert_eq!(entry.template.description, "second");
    assert!(catalogue.get(&name("bad")).is_none());
    assert!(catalogue.get(&name("demo")).is_some());
    let keys: BTreeSet<String> = catalogue
        .faults()
        .into_iter()
        .map(|fault| fault.key)
        .collect();
    assert!(
        keys.contains("schema") && keys.contains("runtime.template_dirs"),
        "{keys:?}"
    );

    // A manifest that becomes faulty stays in use as it was; one that is mended is read anew.
    write_template(&second, "x", "schema = 9");
    assert!(
        catalogue
            .reload()
            .iter()
            .any(|fault| fault.file.starts_with(&second))
    );
    assert_eq!(
        catalogue
            .get(&name("x"))
            .map(|e| e.template.description.clone())
            .as_deref(),
        Some("second")
    );
    write_template(&second, "x", &GOOD.replace("A server.", "third"));
    catalogue.reload();
    assert_eq!(
        catalogue
            .get(&name("x"))
            .map(|e| e.template.description.clone())
            .as_deref(),
        Some("third")
    );
}

#[test]
fn a_missing_program_is_told_with_the_install_hint_and_found_once_installed() {
    let dir = tempfile::tempdir().expect("a folder");
    let (templates, bin) = (dir.path().join("t"), dir.path().join("bin"));
    write_template(&templates, "x", GOOD);
    fs::create_dir_all(bin.join("prog")).expect("a folder is no program");
    let catalogue = catalogue(vec![templates], vec![bin.clone()]);
    let reason = catalogue
        .get(&name("x"))
        .and_then(|e| e.program.err())
        .expect("unavailable");
    assert!(
        reason.contains("prog") && reason.contains("apt install prog"),
        "{reason}"
    );
    let launch = || {
        catalogue.resolve(
            &name("x"),
            &spec(&json!({"level": 1})),
            Path::new("/d"),
            None,
        )
    };
    assert!(matches!(launch(), Err(ResolveError::Unavailable(_))));

    fs::remove_dir(bin.join("prog")).expect("removed");
    let program = bin.join("prog");
    fs::write(&program, "").expect("a file");
    assert!(
        catalogue
            .refresh(&name("x"))
            .is_some_and(|e| e.program.is_err()),
        "it is not executable"
    );
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    let resolved = launch().expect("a command");
    assert_eq!(Path::new(&resolved.argv[0]), program);
    assert_eq!(Path::new(&resolved.env["PATH"]), bin);
    assert!(
        catalogue.get(&name("x")).is_some_and(|e| e.program.is_ok()),
        "the list knows it too"
    );
}

#[test]
fn a_builtin_server_runs_from_this_binary() {
    let catalogue = catalogue(Vec::new(), Vec::new());
    let resolved = catalogue.resolve(&name("demo"), &spec(&json!({})), Path::new("/d"), None);
    assert_eq!(
        resolved.expect("a command").argv,
        ["/opt/minimcp", "mcp", "demo"]
    );
    let unknown = catalogue.resolve(&name("nope"), &spec(&json!({})), Path::new("/d"), None);
    assert_eq!(
        unknown,
        Err(ResolveError::UnknownTemplate("nope".to_owned()))
    );
}
