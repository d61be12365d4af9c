"""The sandbox's only way out: registries, hosts, secrets; and the log of what was let through."""
