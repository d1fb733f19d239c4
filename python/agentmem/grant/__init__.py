"""What `agentmem setup` grants to a user, once, as root; and how it is taken back.

`plan` decides, `facts` looks, `host` does, `journal` remembers what to take back.
"""
