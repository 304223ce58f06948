using LinearAlgebra: mul!

"""
    ProductCall(buffers, out, first, second, adds)

`C = A B` by `mul!`, or `C += A B` where it `adds`, once for each of a batch.
"""
struct ProductCall{C, B, A} <: Function
    calls::Vector{Tuple{C, B, A}}
    adds::Bool
end

function ProductCall(buffers, out::Window, first::Window, second::Window, adds::Bool)
    batch = length(out.shape) == 3 ? out.shape[1] : 1
    # Read by columns, row-major matrices are their transposes: C' = B' A'.
    calls = map(0:(batch - 1)) do i
        matrices = map((out, second, first)) do w
            strided_matrix(buffers, length(w.shape) == 3 ? slice(w, i) : w)
        end
        Tuple(matrices)
    end
    return ProductCall(calls, adds)
end

function (product::ProductCall)()
    for (c, b, a) in product.calls
        if product.adds
            # GPUArrays takes a sum of no products for all of the result.
            isempty(operand!(a)) && continue
            mul!(operand!(c), operand!(b), result(a), true, true)
        else
            mul!(result(c), operand!(b), operand!(a))
        end
        finish!(c)
    end
    return nothing
end

"The `i`th of a window's first dimension, from 0."
slice(w::Window, i) = Window(w.buffer, w.shape[2:end], w.strides[2:end], w.offset + i * w.strides[1])

"A matrix with gaps, and a dense one that stands for it in products."
struct StandIn{D, S <: Strided}
    dense::D
    strided::S
end

"A matrix that `mul!` takes: dense, the transpose of a dense one, or a [`StandIn`](@ref)."
function strided_matrix(buffers, w::Window)
    matrix = array_of(buffers, w)
    matrix isa Strided || return matrix
    flipped = array_of(buffers, Window(w.buffer, reverse(w.shape), reverse(w.strides), w.offset))
    flipped isa Strided || return transpose(flipped)
    return StandIn(similar(matrix.memory, size(matrix)), matrix)
end

operand!(matrix) = matrix
operand!(matrix::StandIn) = copyto_broadcast!(matrix.dense, matrix.strided)
result(matrix) = matrix
result(matrix::StandIn) = matrix.dense
finish!(_) = nothing
finish!(matrix::StandIn) = copyto_broadcast!(matrix.strided, matrix.dense)

# `copyto!` would go element by element where one of the two is strided.
copyto_broadcast!(to, from) = broadcast!(identity, to, from)
