# How a solve is ended from outside, and how Python comes to its signals meanwhile.

"""
    Stop

What a solve looks at before each evaluation, in Python's memory: `CStop` in
`pysemi/runtime/border.py`.

- `asked`: non-zero if it is to end.
- `looks`: non-zero if it runs on Python's main thread, where signals wait for it.
- `kind`, `value`, `traceback`: of the exception that a signal's handler raised.
"""
struct Stop
    asked::Int32
    looks::Int32
    kind::Ptr{Cvoid}
    value::Ptr{Cvoid}
    traceback::Ptr{Cvoid}
end

"The solve was asked to stop."
struct Stopped <: Exception end
Base.showerror(io::IO, ::Stopped) = print(io, "the solve was stopped")

function check_stop(stop::Ptr{Stop})
    stop == C_NULL && return nothing
    (; asked, looks) = unsafe_load(stop)
    asked == 0 || throw(Stopped())
    looks == 0 || handle_signals(stop) || throw(Stopped())
    return nothing
end

"PyGILState_Ensure, PyErr_CheckSignals, PyErr_Fetch and PyGILState_Release, of Python's C API."
const SIGNAL_FUNCTIONS = Ref(ntuple(_ -> C_NULL, 4))

look_for_signals_by(addresses...) = (SIGNAL_FUNCTIONS[] = map(Ptr{Cvoid}, addresses); nothing)

"Nanoseconds between two looks: each may have to wait until other threads of Python's pause."
const LOOK_EVERY = UInt64(50_000_000)

const LOOKED_AT = Ref(UInt64(0))

"""
Let Python handle signals that have come, at times, and say whether the solve goes on: not where
a handler raised an exception, which is kept for Python to raise again.
"""
function handle_signals(stop::Ptr{Stop})
    now = time_ns()
    now - LOOKED_AT[] < LOOK_EVERY && return true
    LOOKED_AT[] = now
    ensure, check, fetch, release = SIGNAL_FUNCTIONS[]
    ensure == C_NULL && return true
    state = ccall(ensure, Cint, ())
    goes_on = ccall(check, Cint, ()) == 0
    if !goes_on
        place(i) = Ptr{Ptr{Cvoid}}(stop + fieldoffset(Stop, i))
        ccall(
            fetch, Cvoid, (Ptr{Ptr{Cvoid}}, Ptr{Ptr{Cvoid}}, Ptr{Ptr{Cvoid}}), place(3), place(4), place(5)
        )
    end
    ccall(release, Cvoid, (Cint,), state)
    return goes_on
end
