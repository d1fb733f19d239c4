# The engine's own tests, over the module and without it: what they say is what cargo's tests say.
built_in=$([ -e /dev/agentmem ] && echo yes)
[ "$built_in" ] || try 'load' load
try 'conformance, where the engine holds content' \
    /conformance --exact every_case_passes_in_this_process --nocapture
try 'conformance, where the module holds content' \
    /conformance --ignored --exact every_case_passes_in_the_kernel --nocapture
try 'the engine and the module' /backend --ignored --test-threads 1
[ "$built_in" ] || try 'unload' unload
finish
