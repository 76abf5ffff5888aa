//! The files of `deploy/` fit each other: addresses, ports, names, limits and timeouts.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};
use tidings::config::Config;
use yaml_rust2::{Yaml, YamlLoader};

use super::{NODES, path, read};

const COMPOSE: &str = "deploy/cluster/compose.yaml";
const KUSTOMIZATION: &str = "deploy/cluster/kustomization.yaml";
const KUBERNETES: &str = "deploy/cluster/kubernetes";

/// The documents of a YAML file.
fn documents(file: &str) -> Vec<Value> {
    let documents = YamlLoader::load_from_str(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    documents.iter().map(json).collect()
}

fn json(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Integer(number) => (*number).into(),
        Yaml::String(text) | Yaml::Real(text) => text.clone().into(),
        Yaml::Boolean(value) => (*value).into(),
        Yaml::Array(items) => items.iter().map(json).collect(),
        Yaml::Hash(hash) => {
            let mut object = Map::new();
            for (key, value) in hash {
                let key = key.as_str().unwrap_or_else(|| panic!("{key:?} is text"));
                match json(value) {
                    // What an anchor brings; own keys of the same name count before it.
                    Value::Object(merged) if key == "<<" => {
                        for (key, value) in merged {
                            object.entry(key).or_insert(value);
                        }
                    }
                    value => drop(object.insert(key.to_owned(), value)),
                }
            }
            object.into()
        }
        Yaml::Null => Value::Null,
        Yaml::Alias(_) | Yaml::BadValue => panic!("{yaml:?}"),
    }
}

/// Every object for Kubernetes, with its file.
fn objects() -> Vec<Value> {
    let kustomization = &documents(KUSTOMIZATION)[0];
    let files = texts(&kustomization["resources"]);
    let mut all: Vec<String> = std::fs::read_dir(path(KUBERNETES))
        .expect("a folder")
        .map(|file| format!("kubernetes/{}", file.expect("a file").file_name().to_string_lossy()))
        .collect();
    let mut listed = files.clone();
    all.sort();
    listed.sort();
    assert_eq!(listed, all, "{KUSTOMIZATION} lists each file");
    files.iter().flat_map(|file| documents(&format!("deploy/cluster/{file}"))).collect()
}

/// The object of this kind and name.
fn object(kind: &str, name: &str) -> Value {
    let found = objects().into_iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is a {kind} {name}"))
}

fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().unwrap_or_else(|| panic!("{value} is a list"));
    items.iter().map(|item| item.as_str().expect("text").to_owned()).collect()
}

/// A number of seconds, such as `30` or `30s`.
fn seconds(value: &Value) -> Duration {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Duration::from_secs(text.trim_end_matches('s').parse().expect("seconds"))
}

/// The container of this name in the file.
fn container(file: &str, name: &str) -> Value {
    let containers = documents(file)
        .into_iter()
        .flat_map(|object| object["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default());
    containers.into_iter().find(|container| container["name"] == name).unwrap_or_else(|| panic!("{file} has {name}"))
}

/// What the probes of a container ask for.
pub fn probes(file: &str, name: &str) -> BTreeMap<String, String> {
    let container = container(file, name);
    let probes = ["startupProbe", "readinessProbe", "livenessProbe"];
    let asked = |probe: &&str| Some(((*probe).to_owned(), container[*probe]["httpGet"]["path"].as_str()?.to_owned()));
    probes.iter().filter_map(asked).collect()
}

/// The command that a container runs before it is ended.
pub fn pre_stop(file: &str, name: &str) -> Vec<String> {
    texts(&container(file, name)["lifecycle"]["preStop"]["exec"]["command"])
}

fn config() -> Config {
    Config::load(Some(&path("deploy/cluster/config.toml")), None).expect("a configuration")
}

/// The number behind `key` in a configuration of NATS or nginx.
fn number(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap_or_else(|| panic!("there is {key}"));
    let digits = line.trim_start_matches([':', ' ']).trim_end_matches([';']);
    let (digits, unit) = digits.split_at(digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len()));
    let unit = match unit {
        "" => 1,
        "MB" | "Mi" => 1 << 20,
        "GB" | "Gi" => 1 << 30,
        unit => panic!("{unit} is known"),
    };
    digits.parse::<u64>().expect("a number") * unit
}

/// The addresses of the NATS servers that `config.toml` names, without the scheme.
fn nats_addresses() -> Vec<String> {
    config().cluster.servers.iter().map(|server| server.trim_start_matches("nats://").to_owned()).collect()
}

#[test]
fn the_services_of_compose_find_each_other() {
    // Goal: the addresses that nginx, NATS and Tidings name are those of the services, and the ports those that they use.
    let services = &documents(COMPOSE)[0]["services"];
    let (config, nginx, nats) = (config(), read("deploy/cluster/nginx.conf"), read("deploy/cluster/nats.conf"));
    let front = |service: &str| services[service]["networks"]["front"]["ipv4_address"].as_str().expect("an address");
    for n in 0..NODES {
        let (name, nats_name) = (format!("tidings-{n}"), format!("nats-{n}"));
        let upstream = format!("server {}:{} ", front(&name), config.server.port);
        assert_eq!(nginx.matches(&upstream).count(), 1, "{upstream}");
        assert_eq!(services[&name]["environment"]["TIDINGS__SERVER__TRUSTED_PROXIES"], front("nginx"));
        assert_eq!(services[&nats_name]["environment"]["NATS_NAME"], nats_name);
        let alias = services[&nats_name]["networks"]["nats"]["aliases"][0].as_str().expect("a name");
        assert_eq!(nats_addresses()[n], format!("{alias}:{}", number(&nats, "port:")));
        let cluster = nats.split("cluster {").nth(1).expect("a section");
        let route = format!("nats://{alias}:{}\n", number(cluster, "port:"));
        assert_eq!(cluster.matches(&route).count(), 1, "{route}");
    }
    assert_eq!(nginx.matches("  server ").count(), NODES + 1, "there are no others");
    assert_eq!((nats_addresses().len(), config.cluster.replicas), (NODES, NODES));
    let port = services["nginx"]["ports"][0].as_str().expect("a port");
    assert_eq!(port, format!("127.0.0.1:8080:{}", number(&nginx, "listen")), "only this machine can connect");
    assert!(read("deploy/Dockerfile").contains(&format!("\nEXPOSE {}\n", config.server.port)));
}

#[test]
fn the_services_of_compose_use_files_that_exist() {
    let compose = &documents(COMPOSE)[0];
    let services = compose["services"].as_object().expect("services");
    assert_eq!(services.len(), 2 * NODES + 1);
    for (name, service) in services {
        for volume in texts(&service["volumes"]) {
            let (from, _) = volume.split_once(':').expect("from and to");
            let exists = match from.strip_prefix("./") {
                Some(file) => path("deploy/cluster").join(file).is_file(),
                None => compose["volumes"].as_object().expect("volumes").contains_key(from),
            };
            assert!(exists, "{name}: {volume}");
        }
        if let Some(build) = service["build"].as_object() {
            let context = path("deploy/cluster").join(build["context"].as_str().expect("a folder"));
            assert!(context.join(build["dockerfile"].as_str().expect("a file")).is_file(), "{name}");
            assert!(context.join("Cargo.toml").is_file(), "{name}");
        }
    }
}

#[test]
fn the_objects_of_kubernetes_find_each_other() {
    // Goal: names, labels and ports that one object mentions are those of another.
    let (config, nats) = (config(), read("deploy/cluster/nats.conf"));
    let kustomization = &documents(KUSTOMIZATION)[0];
    let generated = |kind: &str| {
        let generators = kustomization[kind].as_array().expect("generators").iter();
        generators.map(|generator| generator["name"].clone()).collect::<Vec<Value>>()
    };
    for (kind, name) in [("StatefulSet", "nats"), ("Deployment", "tidings")] {
        let workload = object(kind, name);
        let (spec, pod) = (&workload["spec"], &workload["spec"]["template"]["spec"]);
        let labels = &spec["template"]["metadata"]["labels"];
        assert_eq!(spec["replicas"], NODES);
        assert_eq!(&spec["selector"]["matchLabels"], labels);
        assert_eq!(&object("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"], labels);
        assert_eq!(&object("Service", name)["spec"]["selector"], labels);
        let container = &pod["containers"][0];
        let ports = container["ports"].as_array().expect("ports");
        let has = |port: &Value| ports.iter().any(|one| one["name"] == *port || one["containerPort"] == *port);
        for port in object("Service", name)["spec"]["ports"].as_array().expect("ports") {
            assert!(has(port.get("targetPort").unwrap_or(&port["port"])), "{name}: {port}");
        }
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let port = &container[probe]["httpGet"]["port"];
            assert!(port.is_null() || has(port), "{name}: {probe}");
        }
        for volume in pod["volumes"].as_array().expect("volumes") {
            assert!(generated("configMapGenerator").contains(&volume["configMap"]["name"]), "{volume}");
        }
        assert!(container["resources"]["limits"].get("cpu").is_none(), "a limit of the CPU stops streams");
    }
    let container = &object("Deployment", "tidings")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["ports"][0]["containerPort"], config.server.port);
    assert!(generated("secretGenerator").contains(&container["envFrom"][0]["secretRef"]["name"]));
    let set = object("StatefulSet", "nats");
    let names: Vec<String> = (0..NODES)
        .map(|n| {
            format!(
                "{}-{n}.{}:{}",
                text(&set["metadata"]["name"]),
                text(&set["spec"]["serviceName"]),
                number(&nats, "port:")
            )
        })
        .collect();
    assert_eq!(nats_addresses(), names);
    let allowed: Vec<Value> = object("NetworkPolicy", "nats")["spec"]["ingress"]
        .as_array()
        .expect("rules")
        .iter()
        .map(|rule| rule["ports"][0]["port"].clone())
        .collect();
    let cluster = nats.split("cluster {").nth(1).expect("a section");
    assert_eq!(allowed, [number(&nats, "port:"), number(cluster, "port:")]);
    let ports = &set["spec"]["template"]["spec"]["containers"][0]["ports"];
    let ports: Vec<&Value> = ports.as_array().expect("ports").iter().map(|port| &port["containerPort"]).collect();
    assert_eq!(ports, [number(&nats, "port:"), number(cluster, "port:"), number(&nats, "http_port:")]);
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

#[test]
fn a_server_has_the_time_and_the_descriptors_that_it_may_need() {
    // Goal: Docker and Kubernetes kill no server that still drains, nginx ends no stream between two heartbeats and no
    // publish that a server still waits for, and the limits of files are above those of connections.
    let (config, nginx) = (config(), read("deploy/cluster/nginx.conf"));
    let answers = config.log.queue_wait + 2 * config.cluster.ack_timeout;
    let stop = config.shutdown.drain + answers;
    let compose = &documents(COMPOSE)[0];
    let service = &compose["services"]["tidings-0"];
    assert!(seconds(&service["stop_grace_period"]) > stop, "{stop:?}");
    let hook = pre_stop("deploy/cluster/kubernetes/tidings.yaml", "tidings");
    let hook = Duration::from_secs(hook[1].parse().expect("sleep has a number of seconds"));
    let pod = &object("Deployment", "tidings")["spec"]["template"]["spec"];
    assert!(seconds(&pod["terminationGracePeriodSeconds"]) > hook + stop, "{stop:?}");
    let timeouts: Vec<Duration> = nginx
        .split("proxy_read_timeout ")
        .skip(1)
        .map(|rest| seconds(&rest.split(';').next().expect("a time").into()))
        .collect();
    assert_eq!(timeouts.len(), 2, "of streams and of publishes");
    assert!(timeouts[0] >= 2 * config.stream.heartbeat && timeouts[1] > answers, "{timeouts:?}");
    let limits = &config.limits;
    let needed = u64::try_from(limits.connections_max + limits.pending_connections_max + 200).expect("a number");
    assert!(service["ulimits"]["nofile"].as_u64().expect("a number") > needed);
    let files = number(&nginx, "worker_rlimit_nofile");
    assert!(files > number(&nginx, "worker_connections"));
    assert!(compose["services"]["nginx"]["ulimits"]["nofile"].as_u64().expect("a number") >= files);
}

#[test]
fn nats_has_the_space_that_the_stream_reserves() {
    // Goal: with the limits of the shipped configuration, the stream can be created and filled.
    let (config, nats) = (config(), read("deploy/cluster/nats.conf"));
    let reserved = 2 * config.log.bytes_max.get() + (64 << 20);
    let store = number(&nats, "max_file_store");
    assert!(store >= reserved, "{store} {reserved}");
    let set = object("StatefulSet", "nats");
    let claim = text(&set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]);
    assert!(number(&format!("storage: {claim}"), "storage:") >= store);
    assert!(number(&nats, "max_payload") > config.publish.event_bytes_max.get() + 4096);
}
