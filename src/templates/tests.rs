use super::*;

fn catalogue(dirs: Vec<PathBuf>, search_path: Vec<PathBuf>) -> Catalogue {
    let config = RuntimeConfig {
        template_dirs: dirs,
        search_path,
        ..RuntimeConfig::default()
    };
    Catalogue::load(&config, "/opt/minimcp".into())
}

#[test]
fn every_embedded_manifest_is_sound() {
    let catalogue = catalogue(Vec::new(), Vec::new());
    assert_eq!(catalogue.faults(), Vec::new());
    assert_eq!(catalogue.list().len(), EMBEDDED.len());
}
