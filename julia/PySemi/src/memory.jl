# The memory of a vector field that both languages see, and what runs on it.

using FunctionWrappers: FunctionWrapper

"One call without arguments: a kernel, or a whole program. Of one type whatever it does, so
that what calls it is compiled once."
const Thunk = FunctionWrapper{Nothing, Tuple{}}

"A call by reference: of an immutable struct, a wrapper makes a copy for each call."
mutable struct Referred{F} <: Function
    const call::F
end
(r::Referred)() = r.call()

wrapped(call::F) where {F} = Thunk(Referred(call))

"""
What makes a thunk of a loop over a function that a package of kernels has compiled: a function of
that package, since Julia 1.10 keeps none of another's that makes C functions.
"""
const WRAPPERS = IdDict{Any, Any}()

function thunk(@nospecialize(call))
    wrap = call isa PointwiseLoop ? Base.get(WRAPPERS, call.f, wrapped) : wrapped
    return Base.invokelatest(wrap, call)::Thunk
end

"A program of a tape, as one call."
struct TapeProgram <: Function
    kernels::Vector{Thunk}
end

function (program::TapeProgram)()
    for kernel in program.kernels
        kernel()
    end
    return nothing
end

"""
    Memory{T, V}

Inputs (time, state, cotangent λ, packed parameters θ) and results (f, λᵀ∂f/∂y, λᵀ∂f/∂θ) of
a vector field. Python writes θ and reads nothing while a program runs.
"""
struct Memory{T, V <: AbstractVector{T}}
    t::V
    y::V
    cotangent::V
    params::V
    dy::V
    y_bar::V
    params_bar::V
end

"How much a program computes; each level includes those below it."
@enum Level NOTHING = 0 FIELD = 1 PULLBACK = 2 JOINT = 3

"""
    in_newest_world(f, arguments...)

Call `f` without the compiler's looking into it from here. What an algorithm's package brought
may be younger than this call. And what the compiler made of a solve whose types it does not
know crashed Julia 1.10.6 when the precompiled package was loaded.
"""
in_newest_world(f, arguments...) = Base.invokelatest(f, arguments...)

"""
    unseen(f)(arguments...)

The same where `f` is not younger. Julia remembers for each place of such a call which method it
was; for all calls in the newest world together it remembers four, and a search takes a microsecond,
or several when the processor has been busy with other things.
"""
unseen(f) = Base.inferencebarrier(f)
