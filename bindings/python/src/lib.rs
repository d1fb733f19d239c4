//! Python face of agentmem.
