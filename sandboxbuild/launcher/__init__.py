"""The use case outside the sandbox: isolation, gateway, sandbox, verification."""
